# A shell for GRAPE: `. ./env.sh` (bash or zsh), after `make setup`. Then `grape ...` and `python -m grape_policy...`
# work. What the caller has already set (discovery range, Fast DDS profile) is kept.

if [ -n "${BASH_VERSION:-}" ]; then
    _grape_self=${BASH_SOURCE[0]} _grape_shell=bash
elif [ -n "${ZSH_VERSION:-}" ]; then
    _grape_self=${(%):-%x} _grape_shell=zsh
else
    echo "env.sh: source it from bash or zsh" >&2
    return 1
fi
GRAPE_ROOT=$(CDPATH= cd -- "$(dirname -- "$_grape_self")" && pwd -P)
_grape_overlay=$GRAPE_ROOT/ros2_ws/install/local_setup.$_grape_shell
if [ ! -x "$GRAPE_ROOT/.venv/bin/python" ] || [ ! -f "$_grape_overlay" ]; then
    echo "env.sh: $GRAPE_ROOT is not set up: run \`make setup\` there first" >&2
    unset _grape_self _grape_shell _grape_overlay
    return 1
fi
export GRAPE_ROOT

# The ROS 2 wheels restart Python once with LD_LIBRARY_PATH set and mark that in this variable; inherited from
# another environment the mark would leave the path unset, and rclpy could not load its libraries.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE

# the overlays' own scripts read variables that are not set
case $- in *u*) _grape_nounset=1; set +u ;; *) _grape_nounset= ;; esac
_grape_ros=${GRAPE_ROS_PREFIX-/opt/ros/jazzy}
if [ -n "$_grape_ros" ] && [ -f "$_grape_ros/setup.$_grape_shell" ]; then
    . "$_grape_ros/setup.$_grape_shell"
else
    export AMENT_PREFIX_PATH="$GRAPE_ROOT/.venv" CMAKE_PREFIX_PATH="$GRAPE_ROOT/.venv"
fi
. "$_grape_overlay"
[ -z "$_grape_nounset" ] || set -u

# After the overlays, so that `python` is the one with the ML packages.
export VIRTUAL_ENV="$GRAPE_ROOT/.venv"
case ":$PATH:" in
    ":$VIRTUAL_ENV/bin:"*) ;;
    *) export PATH="$VIRTUAL_ENV/bin:$PATH" ;;
esac
unset PYTHONHOME

# Simulation and tests never meet another robot on the network by accident; a lab sets SUBNET on purpose.
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
# Two names for one setting: Fast DDS 2 (Jazzy) reads the first, later releases the second.
export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE:-$GRAPE_ROOT/launch/config/fastdds.xml}"
export FASTDDS_DEFAULT_PROFILES_FILE="${FASTDDS_DEFAULT_PROFILES_FILE:-$FASTRTPS_DEFAULT_PROFILES_FILE}"

unset _grape_self _grape_shell _grape_overlay _grape_ros _grape_nounset
