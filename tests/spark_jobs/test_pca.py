"""The PCA equals scikit-learn's full one, however the rows are split."""

from __future__ import annotations

import dataclasses
import functools
import io
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from image_features import pca
from image_features.errors import Damaged, JobError


def made(rows: int, width: int, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    """Float32 rows with clearly different variances: directions are then well defined."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((width, width)))[0]
    spread = 0.9 ** np.arange(width)
    return (rng.standard_normal((rows, width)) * spread @ axes + offset).astype(np.float32)


def sklearn_fit(features: np.ndarray, components: float) -> PCA:
    return PCA(components, svd_solver="full").fit(features.astype(np.float64))


def assert_equal_to_sklearn(model: pca.PcaModel, reference: PCA, rtol: float = 1e-9) -> None:
    assert model.components.shape == reference.components_.shape
    np.testing.assert_allclose(model.mean, reference.mean_, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.components, reference.components_, atol=rtol)  # signs included
    np.testing.assert_allclose(model.explained_variance, reference.explained_variance_, rtol=rtol)
    np.testing.assert_allclose(model.explained_variance_ratio, reference.explained_variance_ratio_, rtol=rtol)
    for array in dataclasses.astuple(model):
        assert array.dtype == np.float64


@pytest.mark.parametrize(
    ("rows", "width", "components"),
    [(300, 20, 20), (300, 20, 1), (5000, 40, 10), (21, 20, 20), (20, 20, 19), (12, 40, 11), (2, 7, 1)],
)
def test_a_fit_equals_scikit_learn_signs_included(rows: int, width: int, components: int) -> None:
    features = made(rows, width)
    model = pca.fit(pca.Moments.of(features), components)
    reference = sklearn_fit(features, components)
    assert_equal_to_sklearn(model, reference)
    embedding = model.transform(features)
    assert (embedding.shape, embedding.dtype) == ((rows, components), np.float32)
    np.testing.assert_allclose(embedding, reference.transform(features.astype(np.float64)), atol=1e-6)


def test_as_many_components_as_rows_are_allowed_and_the_last_holds_nothing() -> None:
    features = made(12, 40)
    model = pca.fit(pca.Moments.of(features), 12)
    assert_equal_to_sklearn(
        dataclasses.replace(
            model,
            components=model.components[:11],
            explained_variance=model.explained_variance[:11],
            explained_variance_ratio=model.explained_variance_ratio[:11],
        ),
        sklearn_fit(features, 11),
    )
    assert 0 <= model.explained_variance_ratio[11] < 1e-15
    np.testing.assert_allclose(model.components @ model.components.T, np.eye(12), atol=1e-12)


def test_a_mean_ten_thousand_times_the_spread_costs_no_accuracy() -> None:
    features = made(3000, 20, offset=1e4)
    model = pca.fit(pca.Moments.of(features), 20)
    assert_equal_to_sklearn(model, sklearn_fit(features, 20), rtol=1e-8)


def test_features_as_small_as_those_of_random_weights_are_no_problem() -> None:
    features = made(500, 20) * np.float32(1e-12)
    assert_equal_to_sklearn(pca.fit(pca.Moments.of(features), 10), sklearn_fit(features, 10))


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(1, 2999), unique=True).map(sorted), offset=st.sampled_from([0.0, 1e4]))
@example(cuts=[1, 2, 3], offset=1e4)
@example(cuts=[2999], offset=1e4)
@example(cuts=list(range(7, 3000, 7)), offset=1e4)
def test_any_split_into_shards_gives_the_same_moments(cuts: list[int], offset: float) -> None:
    features = made(3000, 12, offset)
    whole = pca.Moments.of(features)
    split = pca.Moments.merged(pca.Moments.of(part) for part in np.split(features, cuts))
    assert split.rows == whole.rows == 3000
    np.testing.assert_allclose(split.mean, features.astype(np.float64).mean(axis=0), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(split.scatter, whole.scatter, rtol=1e-9, atol=1e-9 * np.trace(whole.scatter))


def test_blocks_inside_one_shard_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features = made(1000, 12, 100.0)
    whole = pca.Moments.of(features)
    fitted = pca.fit(whole, 5)
    monkeypatch.setattr(pca, "_BLOCK_ROWS", 64)
    blocks = pca.Moments.of(features)
    assert blocks.rows == 1000
    np.testing.assert_allclose(blocks.scatter, whole.scatter, atol=1e-12 * np.trace(whole.scatter))
    np.testing.assert_allclose(
        fitted.transform(features), (features - whole.mean) @ fitted.components.T, atol=1e-6
    )


def test_merging_is_associative_and_commutative_up_to_rounding() -> None:
    a, b, c = (pca.Moments.of(made(rows, 9, 50.0, seed=rows)) for rows in (3, 400, 57))
    orders = [
        a.merge(b).merge(c),
        a.merge(b.merge(c)),
        c.merge(a).merge(b),
        functools.reduce(pca.Moments.merge, [b, c, a]),
    ]
    for one in orders[1:]:
        assert one.rows == orders[0].rows == 460
        np.testing.assert_allclose(one.mean, orders[0].mean, rtol=1e-14)
        np.testing.assert_allclose(one.scatter, orders[0].scatter, atol=1e-12 * np.trace(orders[0].scatter))


def test_a_merge_leaves_its_parts_as_they_were() -> None:
    a, b = pca.Moments.of(made(5, 4)), pca.Moments.of(made(6, 4, 3.0))
    kept = [array.copy() for array in (a.mean, a.scatter, b.mean, b.scatter)]
    a.merge(b)
    assert all(map(np.array_equal, (a.mean, a.scatter, b.mean, b.scatter), kept))


@settings(max_examples=50, deadline=None)
@given(variance=st.floats(0.01, 0.9999), rows=st.sampled_from([15, 500]))
@example(variance=0.9, rows=500)
@example(variance=0.9999, rows=15)
def test_a_share_of_variance_keeps_as_many_components_as_scikit_learn(variance: float, rows: int) -> None:
    features = made(rows, 30)
    model = pca.fit(pca.Moments.of(features), variance=variance)
    reference = sklearn_fit(features, variance)
    assert len(model.components) == reference.n_components_
    assert_equal_to_sklearn(model, reference)
    assert model.variance_kept >= variance
    assert model.variance_kept == pytest.approx(reference.explained_variance_ratio_.sum())


def test_a_share_that_is_met_exactly_takes_one_component_more_as_scikit_learn_does() -> None:
    half_in_the_first = pca.Moments(5, np.zeros(3), np.diag([2.0, 1.0, 1.0]))
    assert len(pca.fit(half_in_the_first, variance=0.5).components) == 2
    assert len(pca.fit(half_in_the_first, variance=0.49).components) == 1


def test_a_share_next_to_all_never_keeps_more_components_than_there_are() -> None:
    model = pca.fit(pca.Moments.of(made(9, 30)), variance=1 - 1e-16)
    assert len(model.components) <= 9


def test_in_each_component_the_largest_entry_is_positive() -> None:
    model = pca.fit(pca.Moments.of(made(200, 30)), 30)
    largest = model.components[np.arange(30), np.abs(model.components).argmax(axis=1)]
    assert (largest > 0).all()


def test_a_flipped_sign_of_all_features_flips_the_embeddings_and_no_component() -> None:
    features = made(200, 10)
    model, mirrored = (pca.fit(pca.Moments.of(x), 10) for x in (features, -features))
    np.testing.assert_allclose(model.components, mirrored.components, atol=1e-12)
    np.testing.assert_allclose(model.transform(features), -mirrored.transform(-features), atol=1e-6)


def test_columns_that_never_vary_get_no_weight() -> None:
    features = made(100, 10)
    features[:, 4] = 7.25
    model = pca.fit(pca.Moments.of(features), 9)
    np.testing.assert_allclose(model.components[:, 4], 0, atol=1e-14)


@pytest.mark.parametrize(
    ("rows", "components", "variance", "message"),
    [
        (50, 0, None, "0 components asked for, but 50 images of 8 features allow 1 to 8"),
        (50, -1, None, "-1 components"),
        (50, 9, None, "9 components asked for, but 50 images of 8 features allow 1 to 8"),
        (5, 6, None, "6 components asked for, but 5 images of 8 features allow 1 to 5"),
        (50, None, 0.0, "between 0 and 1, not 0.0"),
        (50, None, 1.0, "between 0 and 1, not 1.0"),
        (50, None, -0.5, "between 0 and 1, not -0.5"),
        (50, None, float("nan"), "between 0 and 1, not nan"),
        (50, None, None, "either a number of components or a share of variance"),
        (50, 3, 0.9, "either a number of components or a share of variance"),
        (1, 1, None, "at least 2 images with features, there are 1"),
        (1, None, 0.9, "at least 2 images with features, there are 1"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_with_its_numbers(
    rows: int, components: int | None, variance: float | None, message: str
) -> None:
    with pytest.raises(JobError, match=message):
        pca.fit(pca.Moments.of(made(rows, 8)), components, variance)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7, 1e-20])
def test_rows_that_are_all_the_same_are_refused(value: float) -> None:
    constant = np.full((5000, 6), value, np.float32)
    moments = pca.Moments.merged(pca.Moments.of(part) for part in np.split(constant, [3, 2500]))
    with pytest.raises(JobError, match="no variance"):
        pca.fit(moments, 2)


def test_the_model_file_holds_scikit_learns_names_and_loads_without_pickle() -> None:
    model = pca.fit(pca.Moments.of(made(100, 10)), 4)
    data = model.to_npz()
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "mean": (10,),
            "components": (4, 10),
            "explained_variance": (4,),
            "explained_variance_ratio": (4,),
        }
    again = pca.PcaModel.from_npz(data, "u")
    assert all(map(np.array_equal, dataclasses.astuple(again), dataclasses.astuple(model)))
    assert again.digest == model.digest


def test_the_digest_of_a_model_changes_with_mean_and_components() -> None:
    model = pca.fit(pca.Moments.of(made(100, 10)), 4)
    others = [
        dataclasses.replace(model, mean=np.nextafter(model.mean, 9)),
        dataclasses.replace(model, components=-model.components),
        dataclasses.replace(model, components=model.components[:3]),
    ]
    assert len({model.digest, *(other.digest for other in others)}) == 4


def npz(**arrays: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


def npy(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=True)
    return sink.getvalue()


WHOLE = pca.fit(pca.Moments.of(made(100, 10)), 4).to_npz()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"PK\x03\x04 no zip",
        WHOLE[:-10],
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:200] + bytes(100) + WHOLE[300:],
        npz(mean=np.zeros(3)),
        npz(
            mean=np.array([{}], object),
            components=np.zeros((1, 3)),
            explained_variance=np.zeros(1),
            explained_variance_ratio=np.zeros(1),
        ),
        npy(np.zeros(3)),
        npy(np.array([{}], object)),
    ],
    ids=["empty", "text", "zip head", "cut", "half", "zeros", "one array", "pickled", "npy", "pickled npy"],
)
def test_a_file_that_is_no_model_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(JobError, match=r"s3://b/pca/model\.npz is not a PCA model"):
        pca.PcaModel.from_npz(data, "s3://b/pca/model.npz")


def test_whatever_bit_flips_the_model_is_refused_or_the_same() -> None:
    """Among them the flag "encrypted", other compressions, and shapes that no memory holds."""
    rng = np.random.default_rng(0)
    model = pca.fit(pca.Moments.of(rng.standard_normal((5, 3)).astype(np.float32)), components=2)
    whole = model.to_npz()
    for at in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        with suppress(Damaged):  # a time stamp, say, changes no array
            assert pca.PcaModel.from_npz(bytes(damaged), "u").digest == model.digest, f"bit {at}"


def test_a_share_of_variance_is_met_or_all_components_are_kept() -> None:
    """Also at the shares that a number of components keeps exactly, and just below 1."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        rows = rng.standard_normal((rng.integers(3, 40), rng.integers(2, 30))).astype(np.float32)
        moments, most = pca.Moments.of(rows), min(rows.shape)
        ratio = pca.fit(moments, components=most).explained_variance_ratio
        sums = [share for share in np.cumsum(ratio)[:-1] if share < 1]
        for share in (0.9, 1 - 1e-12, 1 - 2**-53, *sums, *np.nextafter(sums, 0), *np.nextafter(sums, 1)):
            if share < 1:
                model = pca.fit(moments, variance=float(share))
                assert model.variance_kept >= share or len(model.components) == most
                assert pca.is_met(f"variance={float(share)}", model, len(rows))


def test_a_share_that_is_not_kept_is_not_met_while_components_are_left_out() -> None:
    rows = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    model = pca.fit(pca.Moments.of(rows), components=2)
    assert pca.is_met("components=2", model, 9)
    assert not pca.is_met("components=3", model, 9)
    assert pca.is_met(f"variance={model.variance_kept}", model, 9)
    assert not pca.is_met("variance=0.999999", model, 9)
