"""The verdicts of the bench on the scores: can a policy learn the right thing from them?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import mean, pstdev

from common.answers import marked_answer
from common.answers.letters import only_letters
from common.rewards.bench.trial import Finding, Outcome, Trial, short, where
from common.rewards.code_tests import is_tests
from common.rewards.structured import kind_of

FLAT_SHARE = 0.5  # share of groups without spread from which it is named
BAD_TRUTHS = 0.01  # share of truths that are not right themselves from which the reward does not fit the data
SENTENCES = 0.1  # share of truths that are sentences from which it is a warning
WORDS, HAN = 8, 20  # words, or Chinese characters, from which a truth is a sentence
SOME = 2000  # calls that are looked at to tell answers from tests
WORTHLESS = ("empty", "white space", "the word None", "only the mark", "binary rubbish", "lone surrogate")


def learnable(trial: Trial) -> Iterator[Finding]:
    """Do good answers score better than bad ones, and do scores differ at all?"""
    outcomes = [outcome for outcome in trial.scored() if outcome.case.kind != "truth"]
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
        return "the ground truth (tests? a schema?) is not an answer by itself: give --responses with real answers"
    return r"the truth was tried as `#### N`, `\boxed{N}` and N; if answers look different, give --responses"


def _truths_are_answers(trial: Trial) -> bool:
    """Tells answers from tests of programs and from descriptions of an answer."""
    truths = [outcome.case.truth for outcome in trial.outcomes[:SOME]]
    return not any(is_tests(truth) or kind_of(truth) for truth in truths)


def truths(trial: Trial) -> Iterator[Finding]:
    """Is every accepted answer of the data right by the reward, in at least one of the forms?"""
    best: dict[tuple[int, str], float] = {}
    for outcome in trial.scored():
        if outcome.case.of:
            key = outcome.case.row, outcome.case.of
            best[key] = max(best.get(key, outcome.score), outcome.score)
    top = max(best.values(), default=0.0)
    if top <= 0 or not _truths_are_answers(trial):
        return  # `learnable` says so
    bad = [key for key, score in best.items() if score < top / 2]
    late = f"; {trial.untried:,} rows were not reached in time" if trial.untried else ""
    if bad:
        row, answer = bad[0]
        found = f"{len(bad):,} of {len(best):,} accepted answers are not right by this reward, first row {row}: "
        found += f"{short(answer)} scored at most {best[bad[0]]:g}{late}"
        status = "fail" if len(bad) > BAD_TRUTHS * len(best) else "warn"
        todo = "nothing can be right on such a row: repair or drop it, or choose a reward that reads it"
        yield Finding(status, "truths", found, todo)
    else:
        yield Finding("ok", "truths", f"each of {len(best):,} accepted answers is right as an answer{late}")


def sentences(trial: Trial) -> Iterator[Finding]:
    """Are the truths sentences, which no answer matches word for word?"""
    answers = {(outcome.case.row, outcome.case.of) for outcome in trial.outcomes if outcome.case.of}
    long = sorted(key for key in answers if is_sentence(key[1]))
    if not long or not _truths_are_answers(trial):
        return
    found = f"{len(long):,} of {len(answers):,} truths are sentences, first row {long[0][0]}: {short(long[0][1])}"
    todo = "a reward that compares pays only these very words: shorten them to the answer itself, or use a judge"
    yield Finding("warn" if len(long) >= SENTENCES * len(answers) else "note", "sentences", found, todo)


def is_sentence(truth: str) -> bool:
    """Tells a sentence from an answer: many words, no mark such as `####` or a box in it, no letter before it."""
    han = sum("\u4e00" <= character <= "\u9fff" for character in truth)
    if len(truth.split()) < WORDS and han < HAN:
        return False
    return "\\" not in truth and marked_answer(truth) is None and only_letters(truth.partition("\n")[0]) is None


def thoughts(trial: Trial) -> Iterator[Finding]:
    """A thought that was cut off must not be paid like an answer."""
    good = [outcome.score for outcome in trial.scored() if outcome.case.kind == "good"]
    paid = [outcome for outcome in trial.scored() if outcome.case.kind == "thought"]
    if not good or not paid or max(good) <= 0:
        return
    best = max(paid, key=lambda outcome: outcome.score)
    if best.score >= max(good):
        todo = "for a model that thinks: read the answer with common.answers.read_answer, which cuts the thought off"
        yield Finding("note", "unfinished thoughts", f"{where(best)} scored {best.score:g}, as a good answer", todo)
    else:
        yield Finding("ok", "unfinished thoughts", f"at most {best.score:g}, the best good answer {max(good):g}")


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


SCORE_CHECKS = (learnable, truths, sentences, odd_answers, thoughts, groups, dump)
