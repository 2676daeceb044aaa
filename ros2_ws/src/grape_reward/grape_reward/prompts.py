"""What a vision-language model is asked, in our own words after Appendix E.2 of paper 002: how a task splits into
stages and which keypoints matter, then the cost functions of each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

OBJECTIVES: Mapping[str, str] = {
    "task_completion": "finish the task; every kind of constraint matters, the target constraints most",
    "safety": "touch nothing but what the task needs; give collision constraints for every stage in which the robot "
    "or what it holds could come near another object",
    "efficiency": "finish in little time and on a short way; give path constraints for every stage",
}
"""What the shipped objectives mean to whoever writes costs. Another objective is named as it is."""

SYSTEM = (
    "You write cost functions for a robot arm with a parallel gripper. A program checks what you write, then a person "
    "reads it. Be exact, be brief, and follow the requested format to the letter."
)


def objective_text(objective: str) -> str:
    """The objective in words."""
    return OBJECTIVES.get(objective, objective.replace("_", " "))


def scene_prompt(
    instruction: str, objective: str, stages: Sequence[str], keypoints: Sequence[str], numbered: int | None
) -> str:
    """Asks for stages and keypoints as JSON. ``stages``, ``keypoints``: names that are given already, empty for the
    model to choose. ``numbered``: how many keypoints the image shows, None where it shows none."""
    lines = [
        f'The image shows a robot\'s workspace before the task: "{instruction}"',
        f"Objective: {objective_text(objective)}.",
        "",
    ]
    if numbered is not None:
        lines.append(f"Keypoints are drawn into the image, each with its number: 0 to {numbered - 1}.")
    if stages:
        lines.append(f"The stages are given, in this order: {'; '.join(stages)}.")
    else:
        lines += [
            "Split the task into stages: in each, one thing happens. Grasping is always a stage of its own.",
            "Example: 'put the carrot on the plate' is 'grasp the carrot', 'move the carrot to the plate', "
            "'drop the carrot on the plate'.",
        ]
    if keypoints:
        lines.append(f"The keypoints' names are given, in this order: {', '.join(keypoints)}.")
        lines.append("Further ones may follow them: obstacles that the robot must keep clear of.")
    else:
        lines.append(
            "Choose the keypoints that matter, in this order: the object that is handled, its target, then obstacles."
        )
    number = ', "number": <the number drawn at it>' if numbered is not None else ""
    lines += [
        "For each stage name the keypoint at which the fingertips are when it ends.",
        "",
        "Answer with one JSON object in a code block and nothing else. Names of keypoints are small letters, digits "
        "and underscores:",
        "```json",
        '{"keypoints": [{"name": "carrot"' + number + "}, ...],",
        ' "stages": [{"name": "grasp the carrot", "ends_at": "carrot"}, ...]}',
        "```",
    ]
    return "\n".join(lines)


def cost_prompt(
    instruction: str,
    objective: str,
    stages: Sequence[str],
    keypoints: Sequence[str],
    functions: Sequence[str],
    up: str = "z",
    obstacles: bool = False,
) -> str:
    """Asks for the cost program. ``functions``: what the compiler allows to be called. ``up``: axis that points up.
    ``obstacles``: further keypoints follow the named ones, as many as there are obstacles."""
    axis = "xyz".index(up)
    lines = [
        f'The robot\'s task: "{instruction}"',
        f"Objective: {objective_text(objective)}.",
        "",
        f"Stages (num_stages = {len(stages)}):",
        *(f"  {number}. {name}" for number, name in enumerate(stages, 1)),
        "Keypoints:",
        *(f"  keypoints[{index}]: {name}" for index, name in enumerate(keypoints)),
        *([f"  keypoints[{len(keypoints)}:]: obstacles, any number of them, perhaps none"] if obstacles else []),
        "",
        "Write cost functions for every stage. Each is a function of one instant and returns one number; zero or less "
        "means that the constraint is satisfied.",
        "- end_effector: np.array of shape (3,), the point between the fingertips.",
        "- keypoints: np.array of shape (K, 3), tracked; an object that is held moves with the gripper.",
        f"- Metres, in the robot's base frame. Index {axis} ({up}) points up.",
        "Name each function stageN_KIND_constraintM(end_effector, keypoints), N and M counted from 1. KIND is one of",
        "- target: what must hold when the stage ends (its value at the end of the stage counts)",
        "- grasp: how object and fingers stand to each other (its value at the end of the stage counts)",
        "- collision: how far the robot or the held object comes too near to something (its worst value counts)",
        "- path: cost of each moment (summed over the time that the stage takes)",
        "Every stage needs at least one function.",
        "",
        "Allowed in a function: a docstring, comments, assignments to local names, arithmetic, comparisons, and/or/not,"
        " `a if test else b`, constant indices and slices of keypoints, list or generator comprehensions over a slice "
        "of keypoints inside sum, min, max or np.array, and a return at the end.",
        f"Functions that may be called: {', '.join(functions)}.",
        "Not allowed: import, loops, if statements, nested functions, classes, other attributes or methods, strings "
        "other than docstrings, printing.",
        "",
        "Answer with one Python code block and nothing else:",
        "```python",
        f"# {instruction}",
        f"num_stages = {len(stages)}",
        "",
        f"### stage 1: {stages[0] if stages else '...'}",
        "def stage1_target_constraint1(end_effector, keypoints):",
        '    """One sentence: what this asks for."""',
        "    ...",
        "    return cost",
        "",
        "# further functions, stage by stage",
        "```",
    ]
    return "\n".join(lines)


def repair_prompt(findings: Sequence[str], wanted: str) -> str:
    """Sends what was wrong with an answer back. ``wanted``: what to answer with."""
    return "\n".join(
        [
            "That cannot be used:",
            *(f"- {finding}" for finding in findings),
            "",
            f"Correct it and answer with {wanted}, complete, and nothing else.",
        ]
    )
