"""The report of an alignment: what was learned from, how training went, both policies side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grape import assess, charts
from grape import report as html
from grape.evaluation import Result
from grape.pairs_show import margins
from grape_episode.reader import read_episode
from grape_reward.tasks import task_named
from grape_trainer.files import read_lines
from grape_trainer.iteration import IterationFiles
from grape_trainer.loop import AlignResult
from grape_trainer.pairs import Pair, PairSet, read_pairs

NAMES = ("SFT", "aligned")


def write(
    out: Path,
    result: AlignResult,
    summary: Mapping[str, Any],
    metrics: Mapping[str, Any],
    sft: Sequence[Result],
    aligned: Sequence[Result],
) -> Path:
    """Write ``out/report.html`` and the picture ``out/rollouts.png``; returns the report's path."""
    figures = [assess.success_by_task(sft, aligned, NAMES)]
    files = IterationFiles(result.folder, 1)
    if files.pairs_path.exists():
        figures += learned_from(files, read_pairs(files.pairs_path), out)
    rewards = [row for row in read_lines(files.train_folder / "metrics.jsonl") if "reward_chosen" in row]
    if rewards:
        caption = (
            "beta times the log-ratio to the reference, summed over the trajectory (Eq. 3 and 6), at every update."
        )
        figures.append(html.Chart("Implicit rewards", caption, svg=charts.implicit_rewards(rewards)))
    facts = {
        "adapter": summary["adapter"] or "none: the old policy was kept",
        "how it ended": summary["reason"],
        "pairs": summary["pairs"],
        "live swap": f"{summary['swap']['lost_ticks']} lost ticks in {summary['swap']['steps']} steps, longest gap "
        f"{summary['swap']['longest_gap_periods']:.2f} control periods",
        "success_reward agrees with success_world": f"{100 * summary['agreement']['rate']:.1f} % of "
        f"{summary['agreement']['trials']} rollouts",
        "seconds": ", ".join(f"{name} {seconds:.0f}" for name, seconds in summary["seconds"].items()),
        "sizes": ", ".join(f"{name} {value}" for name, value in summary["plan"].items()),
    }
    return html.write(
        html.Report(
            title="GRAPE demo: a policy aligned by its own rollouts",
            subtitle=f"{len(sft)} fresh initial states, greedy decoding, the same states for both policies",
            words=summary["words"],
            names=NAMES,
            metrics=metrics,
            figures=figures,
            facts=facts,
        ),
        out / "report.html",
    )


def learned_from(files: IterationFiles, pairs: PairSet, out: Path) -> list[html.Chart]:
    """Stage costs of both sides, the margins, and film strips of the pair with the widest one."""
    if not pairs.pairs:
        return []
    costs = stage_costs(files)
    shown = widest(pairs)
    chosen = [costs[p.chosen] for p in pairs.pairs if p.chosen in costs and p.rejected in costs]
    rejected = [costs[p.rejected] for p in pairs.pairs if p.chosen in costs and p.rejected in costs]
    # the bars are means over all tasks, whose stages differ in their objects only
    names = [f"{number}: {stage.split()[0]}" for number, stage in enumerate(task_named(shown.task).stages, 1)]
    figures = []
    if chosen:
        caption = f"Mean cost of each stage (Eq. 8) over the {len(chosen)} pairs that were learned from."
        figures.append(html.Chart("Stage costs", caption, svg=charts.stage_costs(names, chosen, rejected)))
    bins = margins(pairs)
    counts = [one.by_success for one in bins], [one.equal for one in bins]
    drawn = charts.margins([bins[0].low, *(one.high for one in bins)], *counts)
    per_task = "; ".join(
        f"{task.replace('_', ' ')}: {told['episodes']} episodes, {told['successes']} successes, {told['pairs']} pairs"
        for task, told in pairs.tasks().items()
    )
    figures.append(html.Chart("Margins of the pairs", f"{per_task}.", svg=drawn))
    paths = {candidate.episode_id: Path(candidate.path) for candidate in pairs.candidates}
    strips = []
    for side, episode_id in (("Chosen", shown.chosen), ("Rejected", shown.rejected)):
        episode = read_episode(paths[episode_id])
        strip = charts.film_strip(episode.images)
        strips.append(strip)
        ended = episode.outcome.end_reason if episode.outcome else "cut off"
        caption = f"“{episode.identity.instruction}”, initial state {episode.identity.initial_state}: {ended}."
        figures.append(html.Chart(f"{side} rollout", caption, uri=charts.as_data_uri(strip)))
    charts.stack(strips).save(out / "rollouts.png")
    return figures


def stage_costs(files: IterationFiles) -> dict[str, list[float]]:
    """Episode id -> its S stage costs."""
    from grape_trainer.errors import LoopError
    from grape_trainer.files import read_json

    told = read_json(files.scores_path, LoopError)["episodes"]
    return {row["score"]["episode_id"]: row["score"]["stage_costs"] for row in told if row["score"]}


def widest(pairs: PairSet) -> Pair:
    """The pair with the widest margin."""
    return max(pairs.pairs, key=lambda pair: pair.margin)
