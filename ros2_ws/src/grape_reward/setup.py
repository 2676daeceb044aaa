from setuptools import find_packages, setup

NAME = "grape_reward"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={NAME: ["tasks/*/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + NAME]),
        ("share/" + NAME, ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="GRAPE for ROS 2 maintainers",
    maintainer_email="maintainers@grape.invalid",
    description="Stages, costs, success, GCPG: reward node and offline scoring.",
    license="Apache-2.0",
    extras_require={"test": ["pytest"]},
    entry_points={"console_scripts": ["reward_node = grape_reward.reward_node:main"]},
)
