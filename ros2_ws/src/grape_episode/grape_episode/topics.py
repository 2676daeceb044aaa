"""Names of the topics, services and actions, and of the frames.

The camera, robot and controller names are the lab robot's own (franka_ros2, crisp_controllers,
ros2_robotiq_gripper, realsense2_camera); those under ``/grape`` are ours.
"""

CLOCK = "/clock"
COLOR = "/camera/camera/color/image_raw"
CAMERA_INFO = "/camera/camera/color/camera_info"
DEPTH = "/camera/camera/aligned_depth_to_color/image_raw"
CURRENT_POSE = "/franka_robot_state_broadcaster/current_pose"
WRENCH = "/franka_robot_state_broadcaster/external_wrench_in_base_frame"
JOINT_STATES = "/joint_states"
TARGET_POSE = "/target_pose"
GRIPPER_ACTION = "/robotiq_gripper_controller/gripper_cmd"
ROBOT_STATE = "/franka_robot_state_broadcaster/robot_state"
ERROR_RECOVERY = "/action_server/error_recovery"
CONTROLLER_MANAGER = "/controller_manager"
JOY = "/joy"

EPISODE = "/grape/episode"
OUTCOME = "/grape/outcome"
RECORD = "/grape/record"
POLICY_STEP = "/grape/policy_step"
MODEL_INPUT = "/grape/model_input"
HEARTBEAT = "/grape/heartbeat"
STEP_COMMIT = "/grape/step_commit"
GATE_STATUS = "/grape/gate_status"
ARM_STATUS = "/grape/arm_status"
OPERATOR_STEP = "/grape/operator_step"
KEEP_OUT = "/grape/keep_out"
KEYPOINTS = "/grape/keypoints"
TASK_STATUS = "/grape/task_status"
STAGE_COSTS = "/grape/stage_costs"
SCORE = "/grape/score"
WORLD_STATUS = "/grape/world_status"

RESET_WORLD = "/grape/reset_world"
PREPARE_RECORDING = "/grape/prepare_recording"
RESET_GATE = "/grape/reset_gate"
RECOVER_ROBOT = "/grape/recover_robot"
END_EPISODE = "/grape/end_episode"
CONFIRM_RESET = "/grape/confirm_reset"
RESET_OVERLAY = "/grape/reset_overlay"
LOAD_ADAPTER = "/grape/load_adapter"
ROLLBACK_ADAPTER = "/grape/rollback_adapter"
LIST_ADAPTERS = "/grape/list_adapters"

RUN_EPISODE = "/grape/run_episode"
ALIGN = "/grape/align"
EVALUATE = "/grape/evaluate"

BASE_FRAME = "fr3_link0"
CAMERA_FRAME = "camera_color_optical_frame"
ARM_JOINTS = tuple(f"fr3_joint{i}" for i in range(1, 8))
KNUCKLE_JOINT = "robotiq_85_left_knuckle_joint"
KNUCKLE_CLOSED = 0.7929
"""Angle of the knuckle joint when the gripper is closed, radians; 0 is open."""
GRIPPER_STROKE = 0.085
"""Opening of the Robotiq 2F-85, metres, at knuckle angle 0."""


def gripper_width(knuckle: float) -> float:
    """Opening in metres for a knuckle angle in radians (linear, clipped to the stroke)."""
    closed = min(max(knuckle / KNUCKLE_CLOSED, 0.0), 1.0)
    return GRIPPER_STROKE * (1.0 - closed)


POSE_TYPE = "geometry_msgs/msg/PoseStamped"
WRENCH_TYPE = "geometry_msgs/msg/WrenchStamped"
IMAGE_TYPE = "sensor_msgs/msg/Image"

DATA_TYPES: dict[str, str] = {
    EPISODE: "grape_interfaces/msg/EpisodeIdentity",
    CAMERA_INFO: "sensor_msgs/msg/CameraInfo",
    COLOR: IMAGE_TYPE,
    DEPTH: IMAGE_TYPE,
    CURRENT_POSE: POSE_TYPE,
    WRENCH: WRENCH_TYPE,
    JOINT_STATES: "sensor_msgs/msg/JointState",
    TARGET_POSE: POSE_TYPE,
    POLICY_STEP: "grape_interfaces/msg/PolicyStep",
    MODEL_INPUT: IMAGE_TYPE,
    HEARTBEAT: "grape_interfaces/msg/Heartbeat",
    STEP_COMMIT: "grape_interfaces/msg/StepCommit",
    GATE_STATUS: "grape_interfaces/msg/GateStatus",
    ARM_STATUS: "grape_interfaces/msg/ArmStatus",
    OPERATOR_STEP: "grape_interfaces/msg/OperatorStep",
    KEEP_OUT: "grape_interfaces/msg/KeepOutBoxes",
    JOY: "sensor_msgs/msg/Joy",
    KEYPOINTS: "grape_interfaces/msg/Keypoints",
    TASK_STATUS: "grape_interfaces/msg/TaskStatus",
    STAGE_COSTS: "grape_interfaces/msg/StageCosts",
    SCORE: "grape_interfaces/msg/EpisodeScore",
    WORLD_STATUS: "grape_interfaces/msg/WorldStatus",
    OUTCOME: "grape_interfaces/msg/EpisodeOutcome",
}
"""Message type of every topic that a bag holds; each of these messages begins with a std_msgs/Header."""

RAW_CAMERA = (COLOR, DEPTH)
"""The heavy topics, recorded on request only."""

COMMANDS = (POLICY_STEP, OPERATOR_STEP, JOY, TARGET_POSE, STEP_COMMIT, HEARTBEAT)
"""What moves an arm or a world, or keeps its watchdog quiet: never replayed onto its own topic."""

REPLAY = "/grape/replay"
"""Where a replay puts what it must not put onto its own topic."""
