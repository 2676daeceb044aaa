"""Random cost programs that plain Python can run too: a grammar over numbers, vectors, point sets and truths.

A library of cases, no test. What Python itself makes undefined is left out: divisors are at least 0.5 in size, and
roots, logarithms and arcs get arguments well within their domains."""

from __future__ import annotations

import random
from collections.abc import Callable

KEYPOINTS = 5
REDUCTIONS = ("sum", "max", "min", "mean", "std", "var")
KINDS = ("target", "path", "collision", "grasp")


class Generator:
    """One random program a seed; ``number``, ``vector``, ``points`` and ``truth`` give text of that type."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers: list[str] = []
        self.vectors: list[str] = []
        self.fresh = 0

    def program(self) -> str:
        stages = self.random.randint(1, 3)
        parts = []
        for stage in range(1, stages + 1):
            for kind in self.random.sample(KINDS, self.random.randint(1, 2)):
                parts.append(self.function(f"stage{stage}_{kind}_constraint{self.random.randint(1, 3)}"))
        self.random.shuffle(parts)
        return "\n\n".join([f'"""Program of a test."""\nnum_stages = {stages}  # so many\n', *parts])

    def function(self, name: str) -> str:
        self.numbers, self.vectors, self.fresh = [], [], 0
        lines = [f"def {name}(end_effector, keypoints):"]
        if self.random.random() < 0.5:
            lines.append(f'    """Docstring of {name}."""')
        for _ in range(self.random.randint(0, 4)):
            lines.append(f"    {self.assignment()}{self.random.choice(['', '  # a comment'])}")
        return "\n".join([*lines, f"    return {self.number(4)}"])

    def assignment(self) -> str:
        pick = self.random.random()
        if pick < 0.45:
            text = self.number(3)
            self.numbers.append(self.name())
            return f"{self.numbers[-1]} = {text}"
        if pick < 0.7:
            text = self.vector(2)
            self.vectors.append(self.name())
            return f"{self.vectors[-1]} = {text}"
        if pick < 0.85 and self.numbers:
            return f"{self.random.choice(self.numbers)} {self.random.choice(['+=', '-=', '*='])} {self.number(2)}"
        one, other = self.vector(1), self.vector(1)
        names = [self.name() for _ in range(3)]
        if self.random.random() < 0.5:
            self.vectors += names[:2]
            return f"{', '.join(names[:2])} = {one}, {other}"
        self.numbers += names
        return f"{', '.join(names)} = {one}"

    def name(self) -> str:
        self.fresh += 1
        return f"{self.random.choice(['cost', 'offset', 'x', 'object'])}{self.fresh}"

    def constant(self) -> str:
        return self.random.choice(
            ["0", "1", "2", "0.1", "0.05", "1.5", "-0.3", "1e-2", "np.pi", "(-2)", "len(keypoints)"]
        )

    def leaf(self) -> str:
        choices = [self.constant(), self.constant(), f"{self.point()}[{self.random.randint(-3, 2)}]"]
        return self.random.choice([*choices, *self.numbers, *self.numbers])

    def point(self) -> str:
        index = self.random.randint(-KEYPOINTS, KEYPOINTS - 1)
        return self.random.choice(["end_effector", f"keypoints[{index}]", *self.vectors, *self.vectors])

    def number(self, depth: int) -> str:
        if depth <= 0:
            return self.leaf()
        return self.random.choice(NUMBERS)(self, depth - 1)

    def vector(self, depth: int) -> str:
        if depth <= 0:
            return self.point()
        return self.random.choice(VECTORS)(self, depth - 1)

    def points(self) -> str:
        return self.random.choice(
            ["keypoints", "keypoints[2:]", "keypoints[::2]", "keypoints[-3:]", "keypoints[3:0:-1]"]
        )

    def truth(self, depth: int) -> str:
        return self.random.choice(TRUTHS)(self, max(0, depth - 1))

    def summand(self, depth: int, loop: str) -> str:
        """A number that depends on a loop's point."""
        return self.random.choice(
            [
                f"max(0, {self.number(0)} - np.linalg.norm(end_effector - {loop}))",
                f"np.linalg.norm({loop} - {self.vector(depth - 1)})",
                f"{loop}[{self.random.randint(0, 2)}] * {self.number(depth - 1)}",
                f"abs({loop}[0] - {self.leaf()})",
            ]
        )


def divided(g: Generator, d: int) -> str:
    by = g.random.choice(
        [f"(0.5 + abs({g.number(d - 1)}))", f"(1.0 + ({g.number(d - 1)}) ** 2)", "0.01", "3", "(-0.7)"]
    )
    return f"({g.number(d)}) {g.random.choice(['/', '/', '//', '%'])} {by}"


def comprehension(g: Generator, d: int) -> str:
    test = f" if {g.truth(0)}" if g.random.random() < 0.3 else ""
    return g.random.choice(
        [
            lambda: f"sum({g.summand(d, 'o')} for o in {g.points()}{test})",
            lambda: f"{g.random.choice(['min', 'max'])}({g.summand(d, 'p')} for p in {g.points()})",
            lambda: f"max([{g.summand(d, 'p')} for p in {g.points()}{test}], default=0.25)",
            lambda: f"np.{g.random.choice(REDUCTIONS)}([{g.summand(d, 'q')} for q in {g.points()}])",
            lambda: f"sum(abs(a[0] - b[1]) for a in {g.points()} for b in {g.points()}{test})",
            lambda: f"sum(keypoints[i][2] for i in range(1, len(keypoints)){test})",
            lambda: f"sum(x * y - z for x, y, z in {g.points()})",
            lambda: f"np.linalg.norm(sum(o - end_effector for o in {g.points()}))",
        ]
    )()


def reduction(g: Generator, d: int) -> str:
    matrix = f"({g.points()} - {g.vector(d - 1)})"
    axis = g.random.choice(["axis=1", "axis=-1"])
    function = g.random.choice(REDUCTIONS)
    return g.random.choice(
        [
            f"np.{function}({g.vector(d)})",
            f"np.{function}({matrix})",
            f"np.{function}(np.linalg.norm({matrix}, {axis}))",
            f"np.linalg.norm(np.{function}({matrix}, axis=0))",
            f"np.linalg.norm({g.vector(d)}, ord={g.random.choice('12')})",
            f"np.sum(np.array([o[:2] for o in {g.points()}]) ** 2)",
            f"np.linalg.norm({matrix})",
        ]
    )


Rule = Callable[[Generator, int], str]
UNARY = ("sin", "cos", "square", "floor", "ceil", "sign", "abs", "deg2rad", "rad2deg", "arctan", "tanh")
NUMBERS: tuple[Rule, ...] = (
    lambda g, d: g.leaf(),
    lambda g, d: f"({g.number(d)} {g.random.choice('+-*')} {g.number(d)})",
    lambda g, d: f"({g.number(d)} {g.random.choice('+-*')} {g.number(d)})",
    divided,
    comprehension,
    comprehension,
    reduction,
    lambda g, d: f"-{g.number(0)}",
    lambda g, d: f"np.linalg.norm({g.vector(d)} - {g.vector(d)})",
    lambda g, d: f"np.linalg.norm({g.vector(d)} - {g.vector(d)})",
    lambda g, d: f"({g.number(d)} if {g.truth(d)} else {g.number(d)})",
    lambda g, d: f"(1 / (end_effector[0] - end_effector[0]) if {g.leaf()} > 5 else {g.number(d)})",
    lambda g, d: f"float({g.truth(d)})",
    lambda g, d: f"float({g.number(d)} {g.random.choice(['and', 'or'])} {g.number(d)})",
    lambda g, d: f"int(({g.number(d)}) / 0.037)",
    lambda g, d: f"round({g.number(d)}, {g.random.randint(1, 4)})" if d < 2 else f"round(3.7 * ({g.number(d)}))",
    lambda g, d: f"{g.random.choice(['max', 'min'])}({g.number(d)}, {g.number(d)}, {g.leaf()})",
    lambda g, d: f"({g.number(d)}) ** {g.random.choice(['2', '3', '0'])}",
    lambda g, d: f"(1.0 + abs({g.number(d)})) ** {g.random.choice(['0.5', '-1', '-2', '1.5'])}",
    lambda g, d: f"np.{g.random.choice(UNARY)}({g.number(d)})",
    lambda g, d: f"np.exp(-abs({g.number(d)}))",
    lambda g, d: f"np.{g.random.choice(['sqrt', 'log', 'log1p'])}(0.5 + abs({g.number(d)}))",
    lambda g, d: f"np.{g.random.choice(['arcsin', 'arccos'])}(0.9 * np.clip({g.number(d)}, -1, 1))",
    lambda g, d: f"np.{g.random.choice(['minimum', 'maximum', 'arctan2', 'hypot'])}({g.number(d)}, {g.number(d)})",
    lambda g, d: f"float(np.where({g.truth(d)}, {g.number(d)}, {g.number(d)}))",
    lambda g, d: f"np.dot({g.vector(d)}, {g.vector(d)})",
    lambda g, d: f"np.sum(keypoints @ {g.vector(d)})",
    lambda g, d: f"np.clip({g.number(d)}, {g.random.choice(['0', '-1.0'])}, 2.5)",
)
VECTORS: tuple[Rule, ...] = (
    lambda g, d: g.point(),
    lambda g, d: f"({g.vector(d)} {g.random.choice('+-*')} {g.vector(d)})",
    lambda g, d: f"({g.number(d)} * {g.vector(d)})",
    lambda g, d: f"({g.vector(d)} / 0.8)",
    lambda g, d: f"np.array([{g.number(d)}, {g.number(0)}, {g.leaf()}])",
    lambda g, d: f"({g.vector(d)} + [0, 0.1, {g.leaf()}])",
    lambda g, d: f"np.cross({g.vector(d)}, {g.vector(d)})",
    lambda g, d: f"np.mean({g.points()}, axis=0)",
    lambda g, d: f"np.{g.random.choice(['max', 'min', 'sum'])}([o + {g.vector(d)} for o in {g.points()}], axis=0)",
    lambda g, d: f"np.{g.random.choice(['minimum', 'maximum'])}({g.vector(d)}, {g.number(0)})",
    lambda g, d: f"np.where({g.vector(d)} > {g.leaf()}, {g.vector(d)}, {g.number(0)})",
    lambda g, d: f"({g.vector(d)} if {g.truth(d)} else {g.vector(d)})",
    lambda g, d: f"abs({g.vector(d)})",
    lambda g, d: f"keypoints[1:4][{g.random.randint(0, 2)}]",
    lambda g, d: f"{g.vector(d)}[::-1]",
)
COMPARISONS = ("<", "<=", ">", ">=", "!=")
TRUTHS: tuple[Rule, ...] = (
    lambda g, d: f"{g.number(d)} {g.random.choice(COMPARISONS)} {g.number(d)}",
    lambda g, d: f"{g.leaf()} {g.random.choice(COMPARISONS)} {g.number(d)} {g.random.choice(COMPARISONS)} {g.leaf()}",
    lambda g, d: f"({g.truth(d)} {g.random.choice(['and', 'or'])} {g.truth(d)})" if d else f"{g.leaf()} > 0",
    lambda g, d: f"(not {g.truth(d)})" if d else f"{g.leaf()} < 0.5",
    lambda g, d: f"np.{g.random.choice(['any', 'all'])}({g.vector(0)} > {g.leaf()})",
    lambda g, d: f"{g.random.choice(['any', 'all'])}(o[2] > {g.leaf()} for o in {g.points()})",
    lambda g, d: f"{g.number(d)}",
)
