from pathlib import Path

from setuptools import find_packages, setup

NAME = "grape"
HERE = Path(__file__).parent


def files(folder: str, pattern: str) -> list[str]:
    """Paths relative to this folder: a data file that leaves it would be written outside the repository."""
    return sorted(str(path.relative_to(HERE)) for path in (HERE / folder).glob(pattern))


setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=["grape", "grape.*"]),
    package_data={NAME: ["templates/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + NAME]),
        ("share/" + NAME, ["package.xml"]),
        ("share/" + NAME + "/launch", files("launch", "*.launch.py")),
        ("share/" + NAME + "/params", files("params", "*.yaml")),
        ("share/" + NAME + "/suites", files("suites", "*.yaml")),
        ("share/" + NAME + "/config", files("config", "*.xml")),
        ("bin", ["bin/grape"]),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="GRAPE for ROS 2 maintainers",
    maintainer_email="maintainers@grape.invalid",
    description="Launch files, parameters, lifecycle manager and the grape command.",
    license="Apache-2.0",
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "grape = grape.cli:main",
            "manager_node = grape.manager_node:main",
            "evaluate_node = grape.evaluate_node:main",
            "score_node = grape.score_node:main",
        ]
    },
)
