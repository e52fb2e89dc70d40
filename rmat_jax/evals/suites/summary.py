"""Summaries of long documents: what the reference costs with and without memory, and what is
written, beside the first lines.
"""

import functools
from pathlib import Path

from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.evals import overlap
from rmat_jax.evals.answers import ALONE, EMPTIED, KEPT, ask
from rmat_jax.evals.compared import BITS, compare, of_others, plot_by_length
from rmat_jax.evals.inputs import questions
from rmat_jax.evals.inputs.questions import Asked, Item
from rmat_jax.evals.suite import Options, Section, Subject, figure

# as far as a summary is written, however long the reference
SUMMARY_TOKENS = 1024
LEAD, OTHER = "the document's beginning", "the summary of another document"
SCORES = {
    "ROUGE-1": functools.partial(overlap.best, functools.partial(overlap.rouge_n, n=1)),
    "ROUGE-2": functools.partial(overlap.best, functools.partial(overlap.rouge_n, n=2)),
    "ROUGE-L": functools.partial(overlap.best, overlap.rouge_l),
}


def load(options: Options) -> list[Item]:
    """What will be summed up. Raises UserError for anything that is wrong with `options.summary`."""
    return questions.load(questions.SUMMARY, options.summary, options.examples, options.seed)


def check(subject: Subject, options: Options) -> None:
    """Raises UserError for anything that is wrong with `options.summary`."""
    load(options)


def prompt(asked: Asked) -> str:
    return "\n\n" + f"{asked.question}\n" * bool(asked.question) + "Summary:"


def room(tokenizer: Tokenizer, asked: Asked) -> int:
    """Tokens: as many as the reference has."""
    return min(len(tokenizer.encode(asked.references[0].encode())), SUMMARY_TOKENS)


def lead(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """The first so many tokens of a document."""
    return tokenizer.decode(tokenizer.encode(text.encode())[:tokens]).decode(errors="replace")


def summary(subject: Subject, options: Options, out: Path) -> Section:
    """What the reference costs with the document in memory, memory emptied, and no document; and
    ROUGE of what is written.

    Raises:
        UserError: bad options, or a model that knows no text.
    """
    items, tokenizer = load(options), subject.tokenizer
    answers = ask(
        subject, items, prompt=prompt, room=functools.partial(room, tokenizer), name="summary"
    )
    chunk_len = subject.config.model.chunk_len
    plot_by_length(
        Path(out, "summary_length.png"), "Summaries by length of the document", answers, chunk_len
    )
    leads = [lead(tokenizer, items[a.document].text, room(tokenizer, a.asked)) for a in answers]
    compared, values = compare(answers, SCORES, {LEAD: leads, OTHER: of_others(answers)})

    lengths = [answer.tokens for answer in answers]
    method = (
        f"{len(answers)} summaries of {len(items)} documents of {min(lengths):,} to {max(lengths):,} tokens, asked for by "
        "the question that comes with them, if one does, and `Summary:`. Bits are those of the first reference. What is "
        f"written is greedy and as long as the reference, as is {LEAD}; at most {SUMMARY_TOKENS:,} tokens. ROUGE is the F "
        "measure, words not stemmed. Emptying the memory leaves the open chunk, and a sliding window, as they are."
    )
    means = values["means"]
    costs = [f"{means[kind][BITS]:.3f} with {kind}" for kind in (KEPT, EMPTIED) if kind in means]
    headline = (
        f"Reference summaries cost {', '.join(costs)}, {means[ALONE][BITS]:.3f} for the {ALONE} (bits per byte); ROUGE-L "
        f"{means[KEPT]['ROUGE-L']:.3f}, {means[LEAD]['ROUGE-L']:.3f} for {LEAD}."
    )
    text = "\n\n".join(
        [compared, figure("Summaries by length of the document", "summary_length.png"), method]
    )
    return Section("Summaries", headline, text, values)
