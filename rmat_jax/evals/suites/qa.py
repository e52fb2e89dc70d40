"""Questions on long documents, or on several: is what was read still there when the question comes?"""

import functools
from pathlib import Path

from rmat_jax.evals import overlap
from rmat_jax.evals.answers import ALONE, EMPTIED, KEPT, ask
from rmat_jax.evals.compared import BITS, compare, of_others, plot_by_length
from rmat_jax.evals.inputs import questions
from rmat_jax.evals.inputs.questions import Asked, Item
from rmat_jax.evals.suite import Options, Section, Subject, figure

# as far as an answer is written; it ends with its line before that
ANSWER_TOKENS = 64
OTHER = "the answer to another document's question"
SCORES = {
    "exact match": functools.partial(overlap.best, overlap.exact_match),
    "token F1": functools.partial(overlap.best, overlap.token_f1),
}


def load(options: Options) -> list[Item]:
    """What will be asked. Raises UserError for anything that is wrong with `options.qa`."""
    return questions.load(questions.QA, options.qa, options.examples, options.seed)


def check(subject: Subject, options: Options) -> None:
    """Raises UserError for anything that is wrong with `options.qa`."""
    load(options)


def prompt(asked: Asked) -> str:
    return f"\n\nQuestion: {asked.question}\nAnswer:"


def qa(subject: Subject, options: Options, out: Path) -> Section:
    """What the reference answer costs with the document in memory, memory emptied, and no document;
    and what is written.

    Raises:
        UserError: bad options, or a model that knows no text.
    """
    items = load(options)
    answers = ask(
        subject, items, prompt=prompt, room=lambda asked: ANSWER_TOKENS, stop=("\n",), name="qa"
    )
    chunk_len = subject.config.model.chunk_len
    plot_by_length(
        Path(out, "qa_length.png"), "Answers by length of the document", answers, chunk_len
    )
    compared, values = compare(answers, SCORES, {OTHER: of_others(answers)})

    parts, lengths = [len(item.documents) for item in items], [answer.tokens for answer in answers]
    several = f", each of {min(parts)} to {max(parts)} texts read one after the other," * (
        max(parts) > 1
    )
    method = (
        f"{len(answers)} questions on {len(items)} documents{several} of {min(lengths):,} to {max(lengths):,} tokens. "
        "Bits are those of the first reference answer after `Question: ...`, `Answer:`. What is written is greedy, to the "
        f"end of the line and at most {ANSWER_TOKENS} tokens; words are compared as SQuAD does. Emptying the memory leaves "
        "the open chunk, and a sliding window, as they are."
    )
    means = values["means"]
    costs = [f"{means[kind][BITS]:.3f} with {kind}" for kind in (KEPT, EMPTIED) if kind in means]
    headline = (
        f"Answers cost {', '.join(costs)}, {means[ALONE][BITS]:.3f} for the {ALONE} (bits per byte); token F1 "
        f"{means[KEPT]['token F1']:.3f}, {means[OTHER]['token F1']:.3f} for {OTHER}."
    )
    text = "\n\n".join(
        [compared, figure("Answers by length of the document", "qa_length.png"), method]
    )
    return Section("Question answering", headline, text, values)
