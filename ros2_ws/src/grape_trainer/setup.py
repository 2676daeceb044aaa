from setuptools import find_packages, setup

NAME = "grape_trainer"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + NAME]),
        ("share/" + NAME, ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="GRAPE for ROS 2 maintainers",
    maintainer_email="maintainers@grape.invalid",
    description="Preferences, TPO, adapter registry, the K-iteration loop.",
    license="Apache-2.0",
    extras_require={"test": ["pytest"]},
    entry_points={"console_scripts": ["trainer_node = grape_trainer.trainer_node:main"]},
)
