"""Text and image in miniature, on shapes that the package draws.

caption      patches as a prefix, four words behind them: the model in the page
fusion       a question about one of two shapes; early fusion or cross-attention fusion
contrast     pictures and captions made alike, CLIP's loss; held-out pairs of colour and shape
"""

import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import nn

from llmbook.data import shapes
from llmbook.data.shapes import PATCH, SIZE, WORDS, patches
from llmbook.experiments.fit import fit
from llmbook.experiments.outlook.blocks import Block
from llmbook.models.pretrained import SHIPPED
from llmbook.seeds import generator

N_PATCHES, PATCH_WIDTH = (SIZE // PATCH) ** 2, PATCH * PATCH * 3
WEIGHTS = SHIPPED / "outlook" / "shapes.safetensors"


def spoiled(image, gen, share=0.04):
    """Pictures as a hand paints them: some cells blank, fewer painted in the picture's colour."""
    n = len(image)
    lost = torch.rand(n, SIZE, SIZE, 1, generator=gen) < share
    added = torch.rand(n, SIZE, SIZE, 1, generator=gen) < share / 4
    paint = image.flatten(1, 2).amax(1)[:, None, None]  # one colour a picture
    return torch.where(added, paint, torch.where(lost, 0.0, image))


def seeing(d_model):
    """A linear map of patches whose weights begin larger: most of a patch is dark, so zero."""
    layer = nn.Linear(PATCH_WIDTH, d_model)
    with torch.no_grad():
        layer.weight *= 3
    return layer


# --- a caption, word by word

CAPTION_STEPS, CAPTION_BATCH = 1500, 48


class Captioner(nn.Module):
    """16 patches, then words; patches see each other, a word sees patches and words before it."""

    def __init__(self, d_model=64, layers=2, heads=4):
        super().__init__()
        self.patch, self.word = seeing(d_model), nn.Embedding(len(WORDS), d_model)
        self.positions = nn.Parameter(0.5 * torch.randn(N_PATCHES + 4, d_model))
        self.blocks = nn.ModuleList(Block(d_model, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, len(WORDS))

    def forward(self, image, words):
        """Pictures and the words before each: (n, t) → logits of the next word (n, t, WORDS)."""
        x = torch.cat([self.patch(patches(image)), self.word(words)], 1)
        n = x.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).tril()
        mask[:, :N_PATCHES] = True
        x = x + self.positions[:n]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x[:, N_PATCHES:]))


def caption_run(seed, steps=CAPTION_STEPS):
    """Train the captioner; each word's share right, clean and spoiled pictures; and the model."""
    torch.manual_seed(seed)
    model, gen = Captioner(), generator(seed, "caption")

    def loss_at(step):
        image, said = shapes.pictures(CAPTION_BATCH, gen)
        image = spoiled(image, gen, 0.15 * torch.rand((), generator=gen).item())
        before = F.pad(said[:, :-1], (1, 0))
        return F.cross_entropy(model(image, before).flatten(0, 1), said.flatten())

    seconds = fit(model, loss_at, steps, 3e-3, fused=True)
    test = generator(0, "caption test")
    image, said = shapes.pictures(2000, test)
    found = {}
    with torch.no_grad():
        for name, seen in (("clean", image), ("spoiled", spoiled(image, test, 0.1))):
            best = model(seen, F.pad(said[:, :-1], (1, 0))).argmax(-1) == said
            found[name] = best.double().mean(0).tolist()
    return {**found, "seconds": seconds}, model


def shipped():
    """The captioner of the page, from its float16 weights."""
    model = Captioner()
    held = load(WEIGHTS.read_bytes())
    model.load_state_dict({name: value.float() for name, value in held.items()})
    return model.eval()


def ship(model):
    """Write a captioner's weights as float16."""
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    held = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    WEIGHTS.write_bytes(save(held))


# --- two ways to fuse

FUSION_STEPS, FUSION_BATCH = 800, 32
BLIND = {"colour": 1 / 5, "shape": 1 / 4, "place": 1 / 2}  # right without the picture
FUSIONS = ("early", "cross")
FUSION_LAYERS = 2


class Fused(nn.Module):
    """A question of two words about a picture, answered at the second.

    early        patches and words are one sequence, every token sees every other
    cross        patches through blocks of their own; words read the result by cross-attention
    """

    def __init__(self, how, d_model=48, heads=4, layers=FUSION_LAYERS):
        super().__init__()
        self.how = how
        self.asked, self.word = nn.Embedding(3, d_model), nn.Embedding(len(WORDS), d_model)
        self.text_positions = nn.Parameter(0.5 * torch.randn(2, d_model))
        cross = how == "cross"
        self.blocks = nn.ModuleList(Block(d_model, heads, cross) for _ in range(layers))
        self.patch = seeing(d_model)
        self.patch_positions = nn.Parameter(0.5 * torch.randn(N_PATCHES, d_model))
        if cross:
            self.sight = nn.ModuleList(Block(d_model, heads) for _ in range(layers))
            self.norm_memory = nn.LayerNorm(d_model)
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, len(WORDS))

    def forward(self, image, question):
        """Pictures, questions (n, 2) → logits (n, WORDS)."""
        asked, by = question.T
        x = torch.stack([self.asked(asked), self.word(by)], 1)
        x = x + self.text_positions
        memory = self.patch(patches(image)) + self.patch_positions
        if self.how == "early":
            x, memory = torch.cat([memory, x], 1), None
        if self.how == "cross":
            for block in self.sight:
                memory = block(memory)
            memory = self.norm_memory(memory)
        for block in self.blocks:
            x = block(x, memory=memory)
        return self.head(self.norm(x[:, -1]))

    def work(self):
        """Multiplications for one question, products with weights and of attention: a count."""
        d, layers = self.norm.normalized_shape[0], len(self.blocks)

        def own(tokens):  # a block over tokens that see each other
            return 12 * d * d * tokens + 2 * d * tokens * tokens

        if self.how == "early":
            return layers * own(N_PATCHES + 2)
        cross = 2 * d * d * 2 + 2 * d * d * N_PATCHES + 2 * d * 2 * N_PATCHES
        return layers * (own(N_PATCHES) + own(2) + cross)


def fusion_run(how, seed, steps=FUSION_STEPS):
    """Train one way to fuse; share of right answers by what is asked."""
    torch.manual_seed(seed)
    model, gen = Fused(how), generator(seed, "fusion")

    def loss_at(step):
        image, question, answer = shapes.pairs(FUSION_BATCH, gen)
        return F.cross_entropy(model(image, question), answer)

    seconds = fit(model, loss_at, steps, 6e-3, fused=True)
    image, question, answer = shapes.pairs(2000, generator(0, "fusion test"))
    with torch.no_grad():
        right = (model(image, question).argmax(-1) == answer).double()
    found = {
        name: right[question[:, 0] == i].mean().item()
        for i, name in enumerate(("colour", "shape", "place"))
    }
    weights = sum(p.numel() for p in model.parameters())
    return {
        "right": right.mean().item(),
        **found,
        "weights": weights,
        "work": model.work(),
        "seconds": seconds,
    }


# --- pairs by contrast

CONTRAST_STEPS, CONTRAST_BATCH = 400, 48
HELD = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 1))  # (colour, shape) never trained on


def contrastive_loss(image, text, log_scale):
    """CLIP's loss of n pairs: (n, d), (n, d) of any length, and the log of the scale → a scalar.

    S = e^log_scale · cosines; ½ (cross-entropy of the rows + of the columns), the diagonal right.
    Two equal texts in a batch count each other as wrong. Source: Radford et al. 2021.
    """
    if image.shape != text.shape or image.ndim != 2:
        raise ValueError(
            f"image and text must be (n, d) alike: got {tuple(image.shape)}, {tuple(text.shape)}"
        )
    scores = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T * log_scale.exp()
    right = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


class TwoTowers(nn.Module):
    """A picture and a caption, each to one vector."""

    def __init__(self, d_model=48):
        super().__init__()
        self.patch, self.word = seeing(d_model), nn.Embedding(len(WORDS), d_model)
        self.patch_positions = nn.Parameter(0.5 * torch.randn(N_PATCHES, d_model))
        self.sight, self.reading = Block(d_model), Block(d_model)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def see(self, image):
        """(n, SIZE, SIZE, 3) → (n, d)."""
        return self.sight(self.patch(patches(image)) + self.patch_positions).mean(1)

    def read(self, words):
        """(n, 4) → (n, d); every word has its own place in WORDS, so order adds nothing."""
        return self.reading(self.word(words)).mean(1)


def held(said):
    """Which captions name a pair of colour and shape that is kept from training: bool (n,)."""
    mine = said[:, :2] - shapes.STARTS[:2]
    return (mine[:, None] == torch.tensor(HELD)).all(-1).any(-1)


def contrast_run(seed, steps=CONTRAST_STEPS):
    """Train on pairs; is the right one of all 180 captions the nearest? And the model."""
    torch.manual_seed(seed)
    model, gen = TwoTowers(), generator(seed, "contrast")

    def loss_at(step):
        image, said = shapes.pictures(CONTRAST_BATCH * 2, gen)
        keep = (~held(said)).nonzero()[:CONTRAST_BATCH, 0]
        return contrastive_loss(model.see(image[keep]), model.read(said[keep]), model.log_scale)

    seconds = fit(model, loss_at, steps, 5e-3, fused=True)
    with torch.no_grad():
        image, said = shapes.pictures(2000, generator(0, "contrast test"))
        captions = shapes.all_captions()
        right = nearest(model, image, captions) == (captions[None] == said[:, None]).all(
            -1
        ).int().argmax(-1)
        kept = held(said)
        found = {
            "seen pairs": right[~kept].double().mean().item(),
            "held-out pairs": right[kept].double().mean().item(),
            "chance": 1 / len(captions),
        }
    return {**found, "seconds": seconds}, model


def nearest(model, image, captions):
    """For each picture, which caption's vector has the largest cosine with its own: (n,)."""
    a = F.normalize(model.see(image), dim=-1)
    return (a @ F.normalize(model.read(captions), dim=-1).T).argmax(-1)
