"""What a person may say for a task: its own words, other words for the same, and its words with other nouns."""

from __future__ import annotations

from grape_sim.tasks import SimTask

PARAPHRASES: dict[str, tuple[str, ...]] = {
    "carrot_on_plate": (
        "place the carrot onto the plate",
        "move the carrot over to the plate and set it down there",
        "pick up the orange vegetable and lay it on the dish",
        "the carrot belongs on the plate",
        "could you serve the carrot on the plate",
    ),
    "eggplant_in_basket": (
        "place the eggplant into the basket",
        "drop the aubergine in the basket",
        "pick up the purple vegetable and store it in the wicker box",
        "the eggplant belongs in the basket",
        "could you collect the eggplant in the basket",
    ),
    "green_cube_on_yellow_cube": (
        "place the green cube on top of the yellow cube",
        "build a tower with the green block above the yellow block",
        "pick up the green box and set it down on the yellow one",
        "the green cube belongs on the yellow cube",
        "could you pile the green cube onto the yellow cube",
    ),
    "spoon_on_towel": (
        "place the spoon onto the towel",
        "move the spoon over to the cloth and set it down there",
        "pick up the blue ladle and lay it on the striped fabric",
        "the spoon belongs on the towel",
        "could you leave the spoon on the towel",
    ),
}
"""Other words for the same, by task: none is the task's own instruction."""


_ONTO = (
    "put the {thing} on the {target}",
    "bring the {thing} to the {target}",
    "set the {thing} on the {target}",
    "take the {thing} and put it on the {target}",
    "the {thing} should go on the {target}",
    "please put the {thing} on the {target}",
    "grab the {thing} and leave it lying on the {target}",
    "i want the {thing} to be on the {target}",
    "can you put the {thing} on the {target}",
    "{thing} on {target}",
)
PRACTICE_WORDS: dict[str, tuple[str, ...]] = {
    "carrot_on_plate": _ONTO,
    "eggplant_in_basket": tuple(words.replace(" on ", " in ").replace("lying ", "") for words in _ONTO),
    "green_cube_on_yellow_cube": (
        *(words.replace("leave it lying", "stack it").replace("put", "stack") for words in _ONTO[:8]),
        "put the {thing} upon the {target}",
        "{thing} above {target}",
    ),
    "spoon_on_towel": _ONTO,
}
"""Sentences that a base model practises on, by task, with places for the names of object and target."""


def noun(model: str) -> str:
    """What people call a thing by the name of its model."""
    return model.replace("_", " ")


def reworded(task: SimTask, thing: str = "", target: str = "") -> str:
    """The task's instruction with other nouns in place of its object's and its target's; empty: its own."""
    words = task.instruction
    for old, new in ((noun(task.object), thing), (noun(task.target), target)):
        if new:
            words = words.replace(f"the {old}", f"the {new}")
    return words


def practised(task: SimTask, template: str, thing: str, target: str) -> str:
    """One of :data:`PRACTICE_WORDS` with its nouns; where the template is empty, the task's instruction with them."""
    return template.format(thing=thing, target=target) if template else reworded(task, thing, target)
