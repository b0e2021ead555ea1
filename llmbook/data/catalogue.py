"""The table of larger real sets: one pinned file each, with checksum, size and licence."""

from dataclasses import dataclass

_RAW = "https://raw.githubusercontent.com/"


@dataclass(frozen=True)
class Download:
    """One pinned file: the set it belongs to, address, sha256, bytes, licence, one line on it."""

    collection: str
    url: str
    sha256: str
    size: int
    licence: str
    about: str


def _files(collection, base, licence, about, *files):
    """`files`: (local name, path below `base`, rows, bytes, sha256) each."""
    return {
        name: Download(collection, _RAW + base + path, sha256, size, licence, about.format(rows))
        for name, path, rows, size, sha256 in files
    }


def _multi30k(split, language, rows, size, sha256):
    remote = f"{split}.{language}.gz"
    return f"multi30k.{remote}", remote, rows, size, sha256


DOWNLOADS = {
    **_files(
        "tiny_shakespeare",
        "karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/",
        "text in the public domain",
        "{} lines of plays, for language modelling",
        (
            "tinyshakespeare.txt",
            "input.txt",
            "40,000",
            1115394,
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
    **_files(
        "multi30k",
        "multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw/",
        "research use; captions of Flickr images",
        "{} captions of photographs, English and German line by line, for translation",
        _multi30k(
            "train",
            "en",
            "29,000",
            568929,
            "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        ),
        _multi30k(
            "train",
            "de",
            "29,000",
            637044,
            "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        ),
        _multi30k(
            "val",
            "en",
            "1,014",
            21650,
            "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
        ),
        _multi30k(
            "val",
            "de",
            "1,014",
            24681,
            "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        ),
        _multi30k(
            "test_2016_flickr",
            "en",
            "1,000",
            21077,
            "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
        ),
        _multi30k(
            "test_2016_flickr",
            "de",
            "1,000",
            22890,
            "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
        ),
    ),
    **_files(
        "sst2",
        "clairett/pytorch-sentiment-classification/457ffd83de90a9d6d472d8ffc31bbffe40a8b236"
        "/data/SST2/",
        "the terms of the Stanford Sentiment Treebank",
        "{} sentences of film reviews, each positive or negative, for classification",
        (
            "sst2.train.tsv",
            "train.tsv",
            "6,920",
            720259,
            "ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920",
        ),
        (
            "sst2.dev.tsv",
            "dev.tsv",
            "872",
            92057,
            "eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359",
        ),
        (
            "sst2.test.tsv",
            "test.tsv",
            "1,821",
            188749,
            "831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7",
        ),
    ),
    **_files(
        "wnut17",
        "leondz/emerging_entities_17/e52a2d2a71ac1a051ca2d532eef28653c5c02603/",
        "CC BY 4.0",
        "{} posts and comments, each token tagged, for named entities",
        (
            "wnut17.train.conll",
            "wnut17train.conll",
            "3,394",
            493781,
            "731820e13f71af324c6b55a1575ec2ce59fbaa2a0806f8f0400b98d56cd6a7a5",
        ),
        (
            "wnut17.dev.conll",
            "emerging.dev.conll",
            "1,009",
            114749,
            "e053b752b8155113ca66e7db08af5f2f5f43ab993694e4774f1ec5bad42312d8",
        ),
        (
            "wnut17.test.conll",
            "emerging.test.annotated",
            "1,287",
            192425,
            "2aa79b764e56ec9264a1b30fdd9b70195bd00ff400b62edd8f399d5f13c178f0",
        ),
    ),
    **_files(
        "instructions",
        "rasbt/LLMs-from-scratch/28c65cdfbc3338e2e040016eea4b7fdf556e4d57/ch07"
        "/01_main-chapter-code/",
        "Apache 2.0",
        "{} instructions with input and output, for fine-tuning",
        (
            "instruction-data.json",
            "instruction-data.json",
            "1,100",
            203524,
            "7e09a9af353722ca15c18bc580f093f9c39d3178335a75177319cb1e1d163944",
        ),
    ),
    **_files(
        "preferences",
        "rasbt/LLMs-from-scratch/28c65cdfbc3338e2e040016eea4b7fdf556e4d57/ch07"
        "/04_preference-tuning-with-dpo/",
        "Apache 2.0",
        "the {} instructions with a chosen and a rejected answer, polite and impolite",
        (
            "instruction-data-with-preference.json",
            "instruction-data-with-preference.json",
            "1,100",
            386968,
            "305315abf14f65fa42c01a0877572f832606571c2a7d49f152ac1d758b16756e",
        ),
    ),
    **_files(
        "isoflops",
        "stanford-cs336/assignment3-scaling/24a558ee8f1078d0d44e0e3b1e8c17697e72a153/data/",
        "MIT",
        "{} trainings at nine budgets, each with its final loss, for scaling laws",
        (
            "cs336.isoflops.json",
            "isoflops_curves.json",
            "72",
            7484,
            "da6a464c3f5e5039d3f20e137dfcab3031a3d8e7ef0ac2f376f96e295d4afd27",
        ),
    ),
    **_files(
        "emergence",
        "ryoungj/ObsScaling/4d6e1e43fd2635d04654aa77d1df9d5266ea0382/eval_results/",
        "Apache 2.0",
        "{} base models with their scores, for what depends on the measure",
        (
            "obsscaling.emergent.csv",
            "base_llm_emergent_capability_eval.csv",
            "84",
            7984,
            "a156beee73c39b7833c3c53535c473939105512d85e90b0143be7325e516ef7c",
        ),
        (
            "obsscaling.benchmarks.csv",
            "base_llm_benchmark_eval.csv",
            "148",
            28155,
            "511996815735a4c46251dc585dcc525e370d148201f86561e6f927f9df2d0db8",
        ),
    ),
}
