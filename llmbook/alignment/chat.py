"""Chat templates: messages with roles → one text → token ids, and which of them the model wrote.

    [{"role": "user", "content": "Repeat: owl"}, {"role": "assistant", "content": "owl"}]
    <|user|>Repeat: owl<|end|><|assistant|>owl<|end|>
                                            ‾‾‾‾‾‾‾‾    the loss counts these tokens alone

A template is a program in Jinja, as `transformers` reads it from a tokenizer's folder: what
stands between {% generation %} and {% endgeneration %} is what the model is to write. The end
token belongs to it, or the model never learns to stop. What a tool answers is input, like a
user's words.
"""

import functools
import json
from dataclasses import dataclass, replace

import torch

from llmbook import checks
from llmbook.decoding import generate
from llmbook.seeds import generator
from llmbook.tokenization import BPETokenizer
from llmbook.tokenization.added import AddedToken

ROLES = ("system", "user", "assistant", "tool")
END = "<|end|>"
# Sixteen, so that what is added later needs no new rows in the embedding.
SPECIAL_TOKENS = (
    *(f"<|{role}|>" for role in ROLES),
    END,
    "<|call|>",
    "<|think|>",
    "<|/think|>",
    *(f"<|reserved_{i}|>" for i in range(8)),
)
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message.role + '|>' }}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}"
    "{{ message.content }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ '<|call|>' + call.function.name + ' ' + call.function.arguments | tojson }}"
    "{% endfor %}"
    "{{ '<|end|>' }}"
    "{% endgeneration %}"
    "{% else %}"
    "{{ message.content + '<|end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_OPEN, _CLOSE = "\ue000", "\ue001"  # around what the model writes, while a template runs


# --- messages


def check_messages(messages, special_tokens=()):
    """Raise unless these are messages: a list of dicts with a known role and a content.

    A text in their place is refused: it would be sent without a template, and no error would tell.
    So is a content that holds the name of a special token, which would be read as one: whoever
    wrote it could speak in another's role. Raises TypeError or ValueError; returns the messages.
    """
    if isinstance(messages, str) or not isinstance(messages, list | tuple):
        raise TypeError(
            "messages must be a list of messages such as {'role': 'user', 'content': …}: got "
            f"{messages!r}"
        )
    if not messages:
        raise ValueError("messages must hold one message or more: got none")
    for i, message in enumerate(messages):
        name = f"messages[{i}]"
        if not isinstance(message, dict):
            raise TypeError(f"{name} must be a dict with role and content: got {message!r}")
        checks.one_of(f"the role of {name}", message.get("role"), ROLES)
        content, calls = message.get("content"), message.get("tool_calls")
        if not isinstance(content, str):
            raise TypeError(f"the content of {name} must be a text: got {content!r}")
        if message["role"] == "assistant" and not content.strip() and not calls:
            raise ValueError(f"the content of {name}, an answer, must not be empty")
        for mark in (*special_tokens, _OPEN, _CLOSE):
            if mark in content:
                raise ValueError(
                    f"the content of {name} must not hold {mark!r}, which would be read as a "
                    f"special token: got {content!r}"
                )
    return messages


def from_triplet(instruction, input, output):
    """An (instruction, input, output) record as messages; an empty input is left out.

    The input goes on a line of its own. Source of the format: Wang et al. 2023.
    """
    checks.text("instruction", instruction)
    prompt = f"{instruction}\n{input}" if input else instruction
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": output}]


# --- messages → text


def render(messages, template=TEMPLATE, *, add_generation_prompt=False):
    """The text of messages, and where in it the model writes: (text, [(begin, end), …]).

    begin, end: places in the text, from each answer's first character to behind its last.
    add_generation_prompt: end with what stands before an answer, for the model to go on. Equal to
    `transformers`' apply_chat_template. Raises ValueError for a template that is no Jinja, or that
    has no generation part.
    """
    check_messages(messages)
    checks.text("template", template)
    text = _compiled(template).render(
        messages=messages, add_generation_prompt=add_generation_prompt
    )
    parts, spans, done = [], [], 0
    for i, part in enumerate(text.replace(_CLOSE, _OPEN).split(_OPEN)):
        if i % 2:
            spans.append((done, done + len(part)))
        parts.append(part)
        done += len(part)
    return "".join(parts), spans


@functools.lru_cache(maxsize=16)
def _compiled(template):
    """A Jinja template as `transformers` compiles it, with {% generation %} besides."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller):
            return _OPEN + caller() + _CLOSE

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    where = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    where.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    where.globals["raise_exception"] = raise_exception
    try:
        compiled = where.from_string(template)
        has_generation = "generation" in {t[2] for t in where.lex(template) if t[1] == "name"}
    except jinja2.exceptions.TemplateSyntaxError as error:
        raise ValueError(f"template must be Jinja: {error}") from error
    if not has_generation:
        raise ValueError(
            "template must mark what the model writes by {% generation %} … {% endgeneration %}: "
            "without, no token would count"
        )
    return compiled


# --- text → tokens


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens. counts: for each id, is it one that the model is to write?"""

    ids: list
    counts: list


def encode(tokenizer, messages, *, template=None, max_len=None):
    """Messages as an `Encoded`: ids, and which of them the loss counts.

    A token counts when the model writes its first byte. template: the tokenizer's own when None.
    Raises ValueError for a conversation of more than max_len tokens: cut, it might lose its
    answer.
    """
    check_messages(messages, tokenizer.special_tokens)
    text, spans = render(messages, template or _template_of(tokenizer))
    ids = tokenizer.encode(text)
    if max_len is not None and len(ids) > max_len:
        raise ValueError(
            f"messages must have at most max_len={max_len} tokens: got {len(ids)}, "
            f"beginning {text[:60]!r}"
        )
    # Places in bytes: a token may be half a character.
    written = [(len(text[:a].encode()), len(text[:b].encode())) for a, b in spans]
    counts, at = [], 0
    for i in ids:
        counts.append(any(a <= at < b for a, b in written))
        at += len(tokenizer.decode_bytes([i]))
    return Encoded(ids, counts)


def prompt_ids(tokenizer, messages, *, template=None):
    """The ids that the model is to go on from: messages, and the beginning of an answer."""
    check_messages(messages, tokenizer.special_tokens)
    text, _ = render(messages, template or _template_of(tokenizer), add_generation_prompt=True)
    return tokenizer.encode(text)


def _template_of(tokenizer):
    template = tokenizer.config.get("chat_template")
    if template is None:
        raise ValueError("tokenizer must have a chat template: make one with chat_tokenizer")
    return template


# --- a base model, made ready


def chat_tokenizer(tokenizer, special_tokens=SPECIAL_TOKENS, template=TEMPLATE):
    """A byte-level tokenizer with special tokens for a template behind its own ids, and with it.

    All ids that there were keep their meaning. The end of an answer becomes the end token.
    """
    known = [token for token in special_tokens if token in tokenizer.special_tokens]
    if known:
        raise ValueError(f"special_tokens must be new to the tokenizer: got {known[0]!r}")
    file = json.loads(tokenizer.to_json())
    file["added_tokens"] += [
        AddedToken(text, len(tokenizer) + i).to_dict() for i, text in enumerate(special_tokens)
    ]
    out = BPETokenizer.from_json(json.dumps(file))
    out.config = {**tokenizer.config, "chat_template": template, "eos_token": END}
    return out


@torch.no_grad()
def grow(model, vocab_size, *, eos_id=None, seed=0):
    """A copy of a decoder with room for vocab_size tokens; what it says of the old ones stays.

    A new row is the mean of the old ones plus a little noise: a row of zeros or of fresh noise
    would win or lose every comparison from the start. Raises ValueError for a smaller size.
    """
    old = model.config.vocab_size
    checks.whole("vocab_size", vocab_size, least=old)
    ends = {} if eos_id is None else {"eos_id": eos_id}
    grown = type(model)(replace(model.config, vocab_size=vocab_size, **ends))
    held, fresh = model.state_dict(), generator(seed, "new tokens")
    for name, tensor in grown.state_dict(keep_vars=True).items():
        before = held[name]
        if before.shape == tensor.shape:
            tensor.copy_(before)
            continue
        noise = torch.randn(vocab_size - old, *before.shape[1:], generator=fresh)
        tensor[:old] = before
        tensor[old:] = before.mean(0) + 0.1 * before.std() * noise.to(before)
    return grown.to(next(model.parameters())).train(model.training)


# --- a reply


@dataclass(frozen=True)
class Reply:
    """What a model wrote. ended: with the end token, or was it cut off at the length asked for?"""

    text: str
    ended: bool
    ids: list


def reply(model, tokenizer, conversations, *, max_new_tokens=48, batch_size=64, **settings):
    """A model's answers to conversations, a list of `Reply`.

    conversations: lists of messages, the last one not the model's. settings: `generate`'s;
    temperature 0 when none is given. Conversations of one length are answered together, so no
    padding enters and a reply doesn't depend on its neighbours, but for sampling.
    """
    prompts = [prompt_ids(tokenizer, messages) for messages in conversations]
    end = tokenizer.special_tokens[END]
    out = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    while order:
        length = len(prompts[order[0]])
        rows = [i for i in order[:batch_size] if len(prompts[i]) == length]
        order = order[len(rows) :]
        ids = torch.tensor([prompts[i] for i in rows], device=next(model.parameters()).device)
        room = max_new_tokens
        if model.max_len is not None:
            room = min(room, model.max_len - length)
        found = generate(model, ids, max_new_tokens=room, eos_id=end, **settings)
        for i, row in zip(rows, found[:, length:].tolist()):
            ended = end in row
            row = row[: row.index(end)] if ended else row
            out[i] = Reply(tokenizer.decode(row), ended, row)
    return out
