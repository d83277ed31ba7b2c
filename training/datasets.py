"""Data sets by name: found in `BATON_DATA_DIR`, else downloaded once from their public address, always verified.

It knows names, hashes and addresses, not formats. Invariant: a path that `find` returned holds the bytes of `FILES`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pooch  # type: ignore[import-untyped]

from service.contract.files import sha256_of
from service.contract.provenance import DataSource
from service.errors import StartupError

VARIABLE = "BATON_DATA_DIR"
GITHUB = "https://raw.githubusercontent.com"


class DataError(StartupError):
    """A data file is missing, or is not the one that the figures were made with."""


@dataclass(frozen=True)
class PublicFile:
    """What a data file must hash to, where it comes from, and the address of exactly these bytes, if there is one."""

    sha256: str
    origin: str
    url: str | None = None


STANFORD = "Stanford Sentiment Treebank, binary: nlp.stanford.edu/sentiment"
PHYSIONET = (
    "MIT-BIH Arrhythmia Database and Noise Stress Test Database, excerpts: physionet.org/content/mitdb and /nstdb"
)
TATOEBA = "English TAB French, Tatoeba's sentences of 2017-09-29: manythings.org/anki and tatoeba.org; CC BY 2.0"
MULTI30K = "Multi30k, lower-cased and tokenised: github.com/multi30k/dataset; non-commercial research and education"
FLICKR8K = (
    "Flickr8k (Hodosh et al., 2013), images as vectors of EfficientNet-Lite0, five captions each, and the official "
    "parts; non-commercial research and education"
)
EWT = "UD English EWT, form, UPOS and XPOS a line: github.com/UniversalDependencies/UD_English-EWT"
FILES = {
    "sst2/train.tsv": PublicFile("e981ceb4fe6c9acd1c79851d0d091b9e78103f1f2a399ca83dda27915d41c56c", STANFORD),
    "sst2/dev.tsv": PublicFile("84207e6be5873fb18db798cc6faec86871f5a426554650ff64a1c34e87665f6f", STANFORD),
    "sst2/test.tsv": PublicFile("fcd46f967b7b8efd8b5398481dadf873886298d092195167af907fd532e81e1c", STANFORD),
    "sms_spam/sms.tsv": PublicFile(
        "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d",
        "SMS Spam Collection: UCI Machine Learning Repository, data set 228",
    ),
    "ett/ETTh1.csv": PublicFile(
        "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
        "Electricity transformer temperature: github.com/zhouhaoyi/ETDataset",
        f"{GITHUB}/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
    ),
    "m4_weekly/Weekly-train.csv": PublicFile(
        "d478d3f6ed673e6ed3c2cb0fbed5425f72eedd51318ebebeb0b5ecfcefc37714",
        "M4 competition: github.com/Mcompetitions/M4-methods",
        f"{GITHUB}/Mcompetitions/M4-methods/master/Dataset/Train/Weekly-train.csv",
    ),
    "m4_weekly/Weekly-test.csv": PublicFile(
        "3b2bc4be8e636e802260dcd843ca3c5da40536a1fbe1ecb3229a97dae4f44688",
        "M4 competition: github.com/Mcompetitions/M4-methods",
        f"{GITHUB}/Mcompetitions/M4-methods/master/Dataset/Test/Weekly-test.csv",
    ),
    "tiny_shakespeare/input.txt": PublicFile(
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        "github.com/karpathy/char-rnn",
        f"{GITHUB}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    ),
    "ecg/mitdb_5min.npz": PublicFile("72a3cbfed062247fd91dcc2093097fdf9f13a72c028c76524ef402dc20878fe3", PHYSIONET),
    "ecg/nstdb_noise.npz": PublicFile("8855383ae65e137b90cc9f9f81eec7b94ffa09ea880b6fee3f8255d29a889102", PHYSIONET),
    "ecg/meta.json": PublicFile("13af65130a964d635bcf0ef5e86404dbf0d6cc8d469b558700b999fcdf3e7e99", PHYSIONET),
    "fsdd/fsdd.npz": PublicFile(
        "6cb2a1e3b8a25dac4169e1916ef41e4322a0532acc63c0b720bfd99ef51a0423",
        "Free Spoken Digit Dataset as one file: github.com/Jakobovski/free-spoken-digit-dataset",
    ),
    "ud_ewt/train.tsv.gz": PublicFile("121c0a8a0825ae3584a2f9d285aeba58ee30b6b42895c810ba05d40bca46a4ff", EWT),
    "ud_ewt/dev.tsv.gz": PublicFile("e438eadd603870b8d85e10cb51c149508d460d34509cf950f04072acd933f977", EWT),
    "ud_ewt/test.tsv.gz": PublicFile("eb3fe2db752faf6d0a58bcd2ef1d24a810ab8cf42a944f1aa8485f43b3debd66", EWT),
    "tatoeba_eng_fra/train.tsv.gz": PublicFile(
        "f7c37f57d051aa342c8bd413e2e932e795ea0059125e32138d7506de305f3c57", TATOEBA
    ),
    "tatoeba_eng_fra/dev.tsv.gz": PublicFile(
        "b29374ec980421c9a602654769f0bea253dc7f0242794b2bb6840e4c99ed7b4e", TATOEBA
    ),
    "tatoeba_eng_fra/test.tsv.gz": PublicFile(
        "bc3ff43222201020ed68fec1789077975439df3c0cc09e2458db89487e5f73ec", TATOEBA
    ),
    "multi30k/train.tok.en.gz": PublicFile(
        "d9308d9a7ca588e04daba8dde66524c9a924668d86d90c5631a00ca14a41c69f", MULTI30K
    ),
    "multi30k/train.tok.de.gz": PublicFile(
        "197ddb46157bd92214df4fda2dd209be4d31ba67824be1624464966004fbe130", MULTI30K
    ),
    "multi30k/val.tok.en.gz": PublicFile("282c0d29c10d7965c744f694cfe620e070033c50d574096d732a03723642e142", MULTI30K),
    "multi30k/val.tok.de.gz": PublicFile("01f498dfbbcb84ae8b11b7d9a3bbb22637e166f0e3ed5ddedba38d219dc98482", MULTI30K),
    "multi30k/test2016.tok.en.gz": PublicFile(
        "fd36a0b5a766e9d1d7a661fb440f9c27a606b1a3c1b84affe5b69ba7657babd5", MULTI30K
    ),
    "multi30k/test2016.tok.de.gz": PublicFile(
        "c322a55a981fdaf9be94b92acce4b34520aff40ad8406862fcd6cbdbba4b0537", MULTI30K
    ),
    "flickr8k/captions.tsv.gz": PublicFile(
        "c8dcd2467f4e6ac4700faf7341562422f5f1775437c1e27c66166ffb69f35a53", FLICKR8K
    ),
    "flickr8k/dev.txt": PublicFile("18ba829f47f6df1cb830bf7f0506e2ddf333818925299babbd1bbcaf50fdc504", FLICKR8K),
    "flickr8k/test.txt": PublicFile("c0924146c131458ceba45da59670fe9520eadce1e5cafffa16a817672a9b1f17", FLICKR8K),
    "flickr8k/train.txt": PublicFile("e330ddd5156a4c2d2e2b67bc587e70e588f2d132bd8a10dc54dcb71e58115d8e", FLICKR8K),
    "flickr8k/vectors256.npz": PublicFile("2687c42477fda4b6b0307572f13cd2184dfc8574d99c53842a7e3ac24fbe48b6", FLICKR8K),
    "nab/combined_windows.json": PublicFile(
        "1e1fbc4601321aad8d0f8b3784c8134299379f68f6c1f7777565f8ffd57ab6b1",
        "Numenta Anomaly Benchmark, its windows, beside data/*/*.csv.gz: github.com/numenta/NAB; MIT",
    ),
    "glove/glove.6B.50d.top50k.npz": PublicFile(
        "9ec60d80f6cac2818af0f554c8b27efbe4b8d354c11f0eb19a54adc152e1ca3b",
        "GloVe 6B, 50 dimensions, the 50,000 most frequent words in float16: nlp.stanford.edu/projects/glove",
    ),
    "m3_tourism/m3.jsonl.gz": PublicFile(
        "62506265051285e372c0b6b21c1b50c05d82c36d1e1521f9c45858aaeb76b9d8",
        "M3 competition (Makridakis and Hibon, 2000) as JSON lines: forecasters.org",
    ),
    "m3_tourism/tourism.jsonl.gz": PublicFile(
        "c4553c3aa5987f8c196a4cf41f23538b7f751872d68fe15d0adeb7f4b1b453c6",
        "Tourism competition (Athanasopoulos et al., 2011) as JSON lines",
    ),
    "uci_hourly/bike_hour.csv.gz": PublicFile(
        "0a96d55e49b4223d98835bde3c54da0a7cbfef2055c0c7ea252db3dfb2f03c72",
        "Bike Sharing, hours: UCI Machine Learning Repository, data set 275; CC BY 4.0",
    ),
    "uci_hourly/beijing_pm25.csv.gz": PublicFile(
        "78fe6dcba7e6a3bdd3aa59d9a6143e2759ab643313c67cfe44a0031332e43eae",
        "Beijing PM2.5: UCI Machine Learning Repository, data set 381; CC BY 4.0",
    ),
    "unipen_words/words.jsonl.gz": PublicFile(
        "f085009d09298d86679be1e33934d02015d010f4be67680225fae88b654951e4",
        "UNIPEN train_r01_v07, the words of part sta, as JSON lines: Zenodo, doi 10.5281/zenodo.1195803",
    ),
}


@dataclass(frozen=True)
class Found:
    """A verified data file."""

    name: str
    path: Path
    sha256: str

    def used_as(self, part: str) -> DataSource:
        """Return the manifest's entry for this file; `part` says what it was used for."""
        return DataSource(name=self.name, sha256=self.sha256, part=part)


def find(name: str) -> Found:
    """Return the data file `name`, as in "sst2/train.tsv", from `BATON_DATA_DIR` if set, else from its public address.

    Raises: DataError for an unknown name, a missing file, a failed download, or bytes with another hash.
    """
    if name not in FILES:
        raise DataError(f"no data file is called {name!r}; known are {', '.join(FILES)}")
    known = FILES[name]
    folder = os.environ.get(VARIABLE)
    path = Path(folder, name) if folder else _download(name, known)
    if not path.is_file():
        raise DataError(f"{VARIABLE} is {folder}, which holds no {name}; it must have sha256 {known.sha256}")
    if (found := sha256_of(path)) != known.sha256:
        raise DataError(f"{path} has sha256 {found}, not {known.sha256}; the figures were made with another file")
    return Found(name, path, known.sha256)


def _download(name: str, known: PublicFile) -> Path:
    if known.url is None:
        raise DataError(
            f"{name} cannot be downloaded as one file ({known.origin}): set {VARIABLE} to a folder that holds {name} "
            f"with sha256 {known.sha256}"
        )
    folder = pooch.os_cache("baton")
    try:
        return Path(pooch.retrieve(known.url, f"sha256:{known.sha256}", fname=name.replace("/", "-"), path=folder))
    except (OSError, ValueError) as failure:
        raise DataError(
            f"{known.url} does not give {name} ({failure}); set {VARIABLE} to a folder that holds it with sha256 "
            f"{known.sha256}"
        ) from failure
