"""What both ends of a weight update agree on, without an engine: checksums, chunks, the file in shared memory."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from actors.weight_file import UpdateReader, UpdateWriter, retire_older
from actors.weight_source import ModuleSource
from actors.weight_wire import checksum, chunks, stacked


@given(st.binary(min_size=1, max_size=9000), st.data())
def test_a_checksum_sees_each_changed_byte_and_each_swap(content: bytes, data: st.DataObject) -> None:
    tensor = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    assert checksum(tensor) == checksum(tensor.clone())
    packed = torch.cat([torch.zeros(data.draw(st.integers(0, 9)), dtype=torch.uint8), tensor])
    assert checksum(packed[len(packed) - len(tensor) :]) == checksum(tensor)  # wherever it lies in a buffer
    i = data.draw(st.integers(0, len(content) - 1))
    changed = tensor.clone()
    changed[i] = (int(changed[i]) + data.draw(st.integers(1, 255))) % 256
    assert checksum(changed) != checksum(tensor)
    words = np.frombuffer(content[: len(content) // 8 * 8], dtype=np.int64).copy()
    if len(words) > 1 and words[0] != words[-1]:
        swapped = words.copy()
        swapped[0], swapped[-1] = words[-1], words[0]
        assert checksum(torch.from_numpy(swapped)) != checksum(torch.from_numpy(words))


@given(st.integers(0, 3 * 256 + 9), st.integers(0, 63), st.integers(0, 3 * 256 + 9), st.integers(1, 2**63 - 1))
def test_a_checksum_sees_each_bit_and_each_swap_in_what_is_summed_by_rows(i: int, bit: int, j: int, odd: int) -> None:
    words = np.random.default_rng(0).integers(-(2**62), 2**62, 3 * 256 + 10)
    changed = words.copy()
    changed[i] ^= np.int64(1) << np.int64(bit)
    assert checksum(torch.from_numpy(changed)) != checksum(torch.from_numpy(words))
    words[i], words[j] = odd | 1, 0 if i != j else odd | 1
    swapped = words.copy()
    swapped[i], swapped[j] = words[j], words[i]
    assert (checksum(torch.from_numpy(swapped)) != checksum(torch.from_numpy(words))) is (i != j)


def test_a_checksum_is_the_sum_of_words_by_their_number() -> None:
    words = np.random.default_rng(0).integers(-(2**62), 2**62, 5 * 256 + 3)
    expected = sum(int(word) * (2 * i + 1) for i, word in enumerate(words)) % 2**64
    assert checksum(torch.from_numpy(words)) % 2**64 == expected


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 100))
def test_chunks_keep_order_and_stay_within_the_limit(sizes: list[int], limit: int) -> None:
    meta = [(str(i), torch.uint8, (size,)) for i, size in enumerate(sizes)]
    runs = list(chunks(meta, limit))
    assert [name for run in runs for name, *_ in run] == [name for name, *_ in meta]
    assert all(len(run) == 1 or sum(size for *_, size in run) <= limit for run in runs)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans())
def test_rows_that_lie_together_are_stacked_without_a_copy(rows: list[int], apart: bool) -> None:
    flat = torch.arange(float(3 * sum(rows) + 3))
    ends = np.cumsum([0, *rows]) * 3
    tensors = [flat[a:b].view(-1, 3) for a, b in pairwise(ends)]
    if apart and len(rows) > 1:
        tensors[-1] = flat[ends[-1] - 3 * rows[-1] + 3 : ends[-1] + 3].view(-1, 3)  # not where the one before ends
    found = stacked(tensors)
    assert torch.equal(found, torch.cat(tensors))
    assert (found.data_ptr() == flat.data_ptr()) is not (apart and len(rows) > 1)


def test_an_update_can_be_read_while_it_is_written_and_its_memory_serves_again() -> None:
    learner_like = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 4), "b": torch.nn.Linear(4, 2, bias=False).bfloat16()})
    meta = ModuleSource(learner_like).metadata()
    folders, files = [], []
    for version in (7001, 7002, 7003):
        with torch.no_grad():
            for parameter in learner_like.parameters():
                parameter.add_(1)
        writer = UpdateWriter(meta, version)
        for name, tensor in ModuleSource(learner_like):
            writer.write(tensor)
            ((_, read),) = UpdateReader(writer.file).tensors([name])
            assert torch.equal(read, tensor)
        files.append(writer.file.stat().st_ino)
        folders.append(writer.finish({}))
        retire_older(folders[-1])
        assert load_file(folders[-1] / "model.safetensors").keys() == {m.name for m in meta}
    assert files[0] == files[2] != files[1]
    assert [folder.exists() for folder in folders] == [False, False, True]
