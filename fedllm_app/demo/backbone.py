"""A small backbone of our own, trained once on text that no task uses, without labels.

It lets the first run fine-tune something that already reads, with no download. Token vectors come
from co-occurrence counts (positive pointwise mutual information and its truncated singular value
decomposition, Levy and Goldberg 2014), which costs seconds and saves most of the training. Then
classification gets a BERT that tells whose second half a first half is (contrastive learning over
a batch: van den Oord 2018, equation 4), read where the stock head reads it, at the pooler; and
next-token gets a Llama that continues text.

Shapes: V vocabulary, H width, B texts in a batch, T tokens.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from fedllm_app.core.errors import DataError
from fedllm_app.core.progress import with_progress
from fedllm_app.core.seeds import generator, seed_torch
from fedllm_app.data.cache import build_once
from fedllm_app.demo.docstrings import installation_digest
from fedllm_app.demo.texts import unused_texts
from fedllm_app.tasks import task_of
from fedllm_app.tasks.classify import SEQUENCE_CLASSIFICATION
from fedllm_app.tasks.next_token import NEXT_TOKEN

VERSION = 1  # part of the folder's name: raise it when the weights of one installation change
VOCABULARY = 5000
WIDTH = 128
LAYERS = 2
CONTEXT = 256  # longest input in tokens
WINDOW = 12  # tokens to the left and right that count as company
VECTOR_SPREAD = 0.05  # standard deviation of the token vectors before training
TEMPERATURE = 0.07
LEARNING_RATE = 1e-3
WARM_UP = 30
CLASSES, CAUSAL = SEQUENCE_CLASSIFICATION.name, NEXT_TOKEN.name
STEPS = {CLASSES: 500, CAUSAL: 300}  # about 50 s each on one core
BATCH = {CLASSES: 64, CAUSAL: 32}
SPAN = {CLASSES: 30, CAUSAL: 49}  # tokens of one piece of text
FEWEST = 8  # a text of fewer tokens has no two halves to tell apart
PAD, UNKNOWN, START, END, HIDDEN = range(5)
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def demo_backbone(cache: Path, task_name: str) -> Path:
    """Return the folder of the task's demonstration backbone, trained now if it is not there.

    One process trains while others wait for it. The same installation gives the same weights.

    Parameters
    ----------
    cache : folder for all caches, `<run.home>/cache`.
    task_name : as in task.name.

    Returns
    -------
    A folder with config.json, model.safetensors and a tokenizer, for `from_pretrained`.

    Raises
    ------
    DataError
        If the task has no embedded text.
    """
    name = task_of(task_name).embedded
    if name not in STEPS:
        raise DataError(
            f"model.source is 'embedded' and task.name is {task_name!r}; the demonstration "
            f"backbone exists for {', '.join(STEPS)}. Set model.source to a model for this task."
        )
    folder = cache / "embedded" / installation_digest() / f"backbone-{VERSION}-{name}"

    def build(temporary: Path) -> None:
        pretrain(unused_texts(name, cache), name, temporary, STEPS[name])

    return build_once(folder, build)


def pretrain(texts: list[str], task_name: str, folder: Path, steps: int) -> list[float]:
    """Train tokenizer and backbone on texts, write them to a folder, return the loss per step.

    Parameters
    ----------
    texts : at least one of eight tokens or more.
    task_name : a key of STEPS.
    folder : created.
    steps : optimizer steps.
    """
    causal = task_name == CAUSAL
    threads = torch.get_num_threads()
    # Tensors this small gain little from a second thread, and lose much where another process
    # wants the core. One thread also gives the same bits on any number of cores.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            seed_torch("demo", task_name)
            tokenizer = train_tokenizer(texts, causal)
            encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
            pieces = [np.array(e.ids, dtype=np.int64) for e in encoded if len(e.ids) >= FEWEST]
            model = _new_model(causal, len(tokenizer))
            vectors = model.get_input_embeddings().weight
            with torch.no_grad():
                vectors.copy_(token_vectors(pieces, *vectors.shape))
            objective = _causal_loss if causal else _contrastive_loss
            losses = _train(model, pieces, objective, task_name, steps)
    finally:
        torch.set_num_threads(threads)
    logging.disable_progress_bar()
    model.eval().save_pretrained(folder)
    logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
    return losses


def train_tokenizer(texts: list[str], causal: bool) -> PreTrainedTokenizerFast:
    """Return a lower-case byte-level BPE tokenizer; a causal one adds no marks around a text.

    BPE, because the WordPiece trainer gives another vocabulary each time it runs.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIALS[UNKNOWN]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if not causal:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", START), ("[SEP]", END)]
        )
    names = {"pad": PAD, "unk": UNKNOWN, "cls": START, "sep": END, "mask": HIDDEN}
    if causal:
        names = {"pad": PAD, "unk": UNKNOWN, "bos": START, "eos": END}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT,
        **{f"{name}_token": SPECIALS[i] for name, i in names.items()},
    )


def token_vectors(pieces: list[np.ndarray], V: int, H: int) -> Tensor:
    """Return float32 token vectors of shape (V, H) from who stands near whom.

    Parameters
    ----------
    pieces : token ids, int64, one array per text.
    V : number of tokens.
    H : width; a vocabulary smaller than H leaves the last columns at zero.
    """
    gap = np.full(WINDOW, -1)  # so that neighbouring texts do not meet
    stream = np.concatenate([part for piece in pieces for part in (piece, gap)])
    pairs = []
    for distance in range(1, WINDOW + 1):
        left, right = stream[:-distance], stream[distance:]
        kept = (left >= 0) & (right >= 0)
        pairs.append(left[kept] * V + right[kept])
    counts = np.bincount(np.concatenate(pairs), minlength=V * V).astype(np.float32)
    C = torch.from_numpy(counts).view(V, V)
    C = C + C.T
    share = C.sum(0) ** 0.75  # the exponent tempers the bias toward rare company
    expected = C.sum(1).clamp(min=1)[:, None] * (share / share.sum())[None, :]
    information = torch.log(C / expected.clamp(min=1e-9) + 1e-9).clamp_(min=0)
    U, S, _ = torch.svd_lowrank(information, q=min(H, V), niter=2)
    vectors = torch.zeros(V, H)
    vectors[:, : S.numel()] = U * S.sqrt()
    return vectors / vectors.std().clamp(min=1e-9) * VECTOR_SPREAD


def _new_model(causal: bool, vocabulary: int) -> PreTrainedModel:
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": WIDTH // 32,
        "intermediate_size": 2 * WIDTH,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": PAD,
    }
    if causal:
        ends = {"bos_token_id": START, "eos_token_id": END}
        return LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **ends, **shape))
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertModel(BertConfig(type_vocab_size=1, **still, **shape))


Objective = Callable[[PreTrainedModel, list[np.ndarray], int, np.random.Generator], Tensor]


def _train(
    model: PreTrainedModel, pieces: list[np.ndarray], loss_of: Objective, task_name: str, steps: int
) -> list[float]:
    rng = generator("demo", task_name, "batches")
    batch = min(BATCH[task_name], len(pieces))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * (1 - step / steps)
    )
    model.train()
    losses = []
    for _ in with_progress(range(steps), "pre-training the demonstration backbone, once"):
        chosen = rng.choice(len(pieces), batch, replace=False)
        loss = loss_of(model, [pieces[i] for i in chosen], SPAN[task_name], rng)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def _contrastive_loss(
    model: PreTrainedModel, pieces: list[np.ndarray], span: int, rng: np.random.Generator
) -> Tensor:
    halves = [p[: len(p) // 2] for p in pieces] + [p[len(p) // 2 :] for p in pieces]
    rows = [np.concatenate([[START], _cut(h, span, rng), [END]]) for h in halves]
    ids_BT = _padded(rows)
    pooled_BH = model(ids_BT, attention_mask=(ids_BT != PAD).long()).pooler_output
    first_BH, second_BH = nn.functional.normalize(pooled_BH, dim=-1).chunk(2)
    similar_BB = first_BH @ second_BH.T / TEMPERATURE
    partner_B = torch.arange(len(pieces))
    return (
        nn.functional.cross_entropy(similar_BB, partner_B)
        + nn.functional.cross_entropy(similar_BB.T, partner_B)
    ) / 2


def _causal_loss(
    model: PreTrainedModel, pieces: list[np.ndarray], span: int, rng: np.random.Generator
) -> Tensor:
    ids_BT = _padded([_cut(p, span, rng) for p in pieces])
    inputs_BT, targets_BT = ids_BT[:, :-1], ids_BT[:, 1:]
    logits_BTV = model(inputs_BT, attention_mask=(inputs_BT != PAD).long()).logits
    return nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=PAD
    )


def _cut(piece: np.ndarray, span: int, rng: np.random.Generator) -> np.ndarray:
    start = int(rng.integers(0, max(1, len(piece) - span + 1)))
    return piece[start : start + span]


def _padded(rows: list[np.ndarray]) -> Tensor:
    ids = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return torch.from_numpy(ids)
