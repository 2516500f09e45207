"""The verdicts of the bench on the scores: can a policy learn the right thing from them?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import mean, pstdev

from common.rewards.bench import Finding, Outcome, Trial, where

FLAT_SHARE = 0.5  # share of groups without spread from which it is named
WORTHLESS = ("empty", "white space", "the word None", "only the mark", "binary rubbish", "lone surrogate")


def learnable(trial: Trial) -> Iterator[Finding]:
    """Do good answers score better than bad ones, and do scores differ at all?"""
    outcomes = trial.scored()
    scores = [outcome.score for outcome in outcomes]
    if len(set(scores)) == 1 and len(scores) > 1:
        todo = "nothing can be learned from one score; " + _no_answer(trial)
        real = _truths_are_answers(trial) or any(outcome.case.kind == "response" for outcome in outcomes)
        found = f"all {len(scores):,} calls scored {scores[0]:g}"
        yield Finding("fail" if real else "warn", "constant", found, todo)
        return
    if scores:
        zero = mean(score == 0 for score in scores)
        yield Finding("note", "spread", f"{min(scores):g} to {max(scores):g}, {zero:.0%} of all calls scored 0")
    best = {kind: best_by_row(outcomes, kind) for kind in ("good", "bad")}
    rows = sorted(best["good"].keys() & best["bad"].keys())
    if not rows:
        return
    better = mean(best["good"][row] > best["bad"][row] for row in rows)
    good, bad = (mean(best[kind][row] for row in rows) for kind in ("good", "bad"))
    found = f"good {good:.3g}, bad {bad:.3g} on average; the good one is ahead on {better:.0%} of {len(rows)} rows"
    if good <= bad:
        status = "fail" if _truths_are_answers(trial) else "warn"
        yield Finding(status, "good against bad", found, _no_answer(trial))
    elif better < 1:
        row = next(row for row in rows if best["good"][row] <= best["bad"][row])
        yield Finding("warn", "good against bad", f"{found}; not on row {row}", "look at that row's ground truth")
    else:
        yield Finding("ok", "good against bad", found)


def best_by_row(outcomes: list[Outcome], kind: str) -> dict[int, float]:
    """Returns row -> best score among the forms in which a kind of answer was written."""
    best: dict[int, float] = {}
    for outcome in outcomes:
        if outcome.case.kind == kind:
            best[outcome.case.row] = max(best.get(outcome.case.row, outcome.score), outcome.score)
    return best


def _no_answer(trial: Trial) -> str:
    if not _truths_are_answers(trial):
        return "the ground truth (tests?) is no answer by itself: give --responses with real answers"
    return r"the truth was tried as `#### N`, `\boxed{N}` and N; if answers look different, give --responses"


def _truths_are_answers(trial: Trial) -> bool:
    """Tells answers from tests of programs: dictionaries, lists, JSON, assertions."""
    truths = [str(outcome.case.truth).lstrip() for outcome in trial.outcomes]
    return not any(truth.startswith(("{", "[", "assert ", "import ", "def ")) for truth in truths)


def odd_answers(trial: Trial) -> Iterator[Finding]:
    """An empty or broken answer must not earn what a good one earns."""
    outcomes = trial.scored()
    good = [outcome.score for outcome in outcomes if outcome.case.kind == "good"]
    odd = [outcome for outcome in outcomes if outcome.case.form in WORTHLESS]
    if not good or not odd or max(good) == min(outcome.score for outcome in outcomes):
        return
    best = max(odd, key=lambda outcome: outcome.score)
    if best.score >= max(good):
        found = f"{where(best)} scored {best.score:g}, as much as the best good answer"
        yield Finding("warn", "worthless answers", found, "a policy finds this out; give it less")
    else:
        yield Finding("ok", "worthless answers", f"at most {best.score:g}, the best good answer {max(good):g}")


def groups(trial: Trial) -> Iterator[Finding]:
    """Do the answers of a model to one prompt differ in score?"""
    scores_of: dict[str, list[float]] = defaultdict(list)
    for outcome in trial.scored():
        if outcome.case.kind == "response":
            scores_of[outcome.case.group].append(outcome.score)
    several = [scores for scores in scores_of.values() if len(scores) > 1]
    if not several:
        return
    flat = mean(len(set(scores)) == 1 for scores in several)
    spread = mean(pstdev(scores) for scores in several)
    found = f"{len(several)} groups: mean score {mean(mean(scores) for scores in several):.3g}, standard deviation "
    found += f"{spread:.3g} within a group, {flat:.0%} of the groups have none"
    if flat > FLAT_SHARE:
        todo = "GRPO learns nothing from a group of equal scores: easier or harder prompts, partial credit, a larger n"
        yield Finding("warn", "spread within groups", found, todo)
    else:
        yield Finding("ok", "spread within groups", found)


def dump(trial: Trial) -> Iterator[Finding]:
    """Are the scores those that the run had?"""
    known = [outcome for outcome in trial.scored() if outcome.case.was is not None]
    if known:
        same = mean(abs(outcome.score - outcome.case.was) < 1e-6 for outcome in known)
        yield Finding("note", "against the dump", f"{same:.0%} of {len(known):,} scores are those of the run")


SCORE_CHECKS = (learnable, odd_answers, groups, dump)
