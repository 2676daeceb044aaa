from setuptools import find_packages, setup

NAME = "grape_robot"

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
    description="The last gate before the arm, and its bridges.",
    license="Apache-2.0",
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "gate_node = grape_robot.gate_node:main",
            "ghost_arm_node = grape_robot.ghost_arm_node:main",
            "realsense_node = grape_robot.realsense_node:main",
            "recovery_node = grape_robot.recovery_node:main",
            "reset_node = grape_robot.reset_node:main",
            "teleop_node = grape_robot.teleop_node:main",
        ]
    },
)
