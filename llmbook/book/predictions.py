"""Predict first: a question with a place to answer, and what happens behind a click.

    predict(
        "Shuffle the rows of the input. What happens to the output?",
        ("it stays as it was", "it is shuffled in the same way", "it changes altogether"),
        answer=1,
        why="Each row is computed from the same set of rows, whatever their order.",
    )

The box works in a page without a kernel, in JupyterLab and in Colab. Where no script runs the
answer opens all the same, and where only text is shown the question stands alone.
"""

import hashlib
import html

from llmbook.book.display import publish
from llmbook.book.typeset import to_html, to_text

# On opening: what the reader said beside what happens; and the output of the next cells in a row
# that are kept closed until then (their tag is `answer`).
_SCRIPT = """
for (const box of document.querySelectorAll('.predict:not([data-ready])')) {
  box.dataset.ready = '1';
  const reveal = box.querySelector('details');
  reveal.addEventListener('toggle', () => {
    if (!reveal.open) return;
    const chosen = box.querySelector('input:checked'), text = box.querySelector('textarea');
    const said = box.querySelector('.predict-said');
    if (chosen) said.textContent = chosen.value === box.dataset.answer
      ? 'That is what happens.' : 'You said: ' + chosen.parentElement.textContent.trim() + '.';
    else if (text && text.value.trim()) said.textContent = 'You said: ' + text.value.trim();
    else said.textContent = '';
    let cell = box.closest('.cell')?.nextElementSibling;
    while (cell && !cell.matches('.cell.tag_answer')) cell = cell.nextElementSibling;
    for (; cell?.matches('.cell.tag_answer'); cell = cell.nextElementSibling)
      cell.querySelectorAll('details').forEach(one => {
        if (one.querySelector('.output')) one.open = true; });
  });
}"""
_STYLE = (
    ".predict{margin:1.2rem 0;padding:.8rem 1.1rem;border:1px solid #8884;border-left:4px solid "
    "#0e7ac4;border-radius:.4rem;font-size:1rem;line-height:1.55}.predict p{margin:0 0 .5rem}"
    ".predict form{margin:0}.predict label{display:block;padding:.2rem 0;cursor:pointer}"
    ".predict input{margin:0 .55rem 0 0}.predict textarea{width:100%;box-sizing:border-box;"
    "font:inherit;color:inherit;background:none;border:1px solid #8888;border-radius:.3rem}"
    ".predict details{margin:.5rem 0 0!important}.predict .predict-said:empty{display:none}"
)


def predict(question, options=(), *, answer, why=""):
    """Ask before a result is shown.

    `options` are short answers of which `answer` is the number of the right one, from 0; without
    options the reader writes freely, and `answer` is a text. `why` explains. Formulas stand
    between dollars, as in the ledger. Raises ValueError for an answer that is none of the
    options, and TypeError for texts that are none.
    """
    texts = [question, why, *options, *([] if options else [answer])]
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"question, options, why must be text: got {type(text).__name__}")
    if options and (isinstance(answer, bool) or answer not in range(len(options))):
        raise ValueError(f"answer must be from 0 to {len(options) - 1}: got {answer!r}")
    group = "predict-" + hashlib.sha256(question.encode()).hexdigest()[:8]
    places = (
        "".join(
            f'<label><input type="radio" name="{group}" value="{i}">{to_html(option)}</label>'
            for i, option in enumerate(options)
        )
        or f'<textarea rows="2" aria-label="{html.escape(to_text(question))}"></textarea>'
    )
    right = options[answer] if options else answer
    lines = [f"Predict first: {to_text(question)}", *(f"  · {to_text(o)}" for o in options)]
    publish(
        "\n".join(lines),
        f'<div class="predict" data-answer="{answer if options else ""}"><style>{_STYLE}</style>'
        f"<p><b>Predict first.</b> {to_html(question)}</p>"
        f'<form onsubmit="return false">{places}</form>'
        f'<details><summary>Reveal</summary><p class="predict-said" role="status"></p>'
        f"<p><b>{to_html(right[:1].upper() + right[1:])}.</b> {to_html(why)}</p></details>"
        f"</div><script>{_SCRIPT}</script>",
    )
