"""Any settings at all: stacked, sequential and plain training agree, whoever trains beside whom."""

from crowd import agree, data, members, settings, solo, train
from hypothesis import HealthCheck, given, note
from hypothesis import settings as options
from hypothesis import strategies as st

# Activations are smooth and steps are small: at a kink, or where training is chaotic, the last bits
# of a sum, which are each program's own, become figures.
MODELS = st.fixed_dictionaries(
    {
        "name": st.just("mlp"),
        "hidden": st.lists(st.integers(3, 12), max_size=2),
        "activation": st.sampled_from(["gelu", "silu", "tanh"]),
        "norm": st.sampled_from(["none", "batch", "layer"]),
    }
)
SCHEDULES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["constant", "cosine", "step", "one-cycle", "plateau"]),
        "warmup": st.sampled_from([0.0, 0.5, 2.0]),
        "rise": st.sampled_from([0.2, 0.6]),
        "patience": st.integers(1, 2),
        "every": st.just(2),
        "factor": st.just(0.5),
        "final": st.just(0.1),
    }
)
MAYBE = st.sampled_from


def optimisers(name):
    """One member's own settings of an optimiser."""
    rates = {"sgd": [0.01, 0.05], "adam": [0.002, 0.01], "adamw": [0.002, 0.01]}
    own = {
        "sgd": st.fixed_dictionaries({"momentum": MAYBE([0.0, 0.9])}),
        "adam": st.fixed_dictionaries({"betas": MAYBE([[0.9, 0.999], [0.5, 0.9]])}),
    }
    common = {
        "name": st.just(name),
        "lr": MAYBE(rates[name]),
        "weight_decay": MAYBE([0.0, 0.05]),
        "decay": MAYBE(["weights", "all"]),
    }
    return st.builds(dict.__or__, st.fixed_dictionaries(common), own.get(name, own["adam"]))


@st.composite
def crowds(draw):
    """A data set, and members of different settings that may share a stack."""
    ref = draw(MAYBE(["iris", "diabetes"]))
    metric = "accuracy" if ref == "iris" else "rmse"
    model, optimiser = draw(MODELS), draw(MAYBE(["sgd", "adam", "adamw"]))
    monitors = draw(MAYBE([["loss"], [metric], ["loss", metric], [metric, "loss"]]))
    ema, swa, lawa, mixed, smooth = (draw(st.booleans()) for _ in range(5))
    batch_size = draw(st.integers(20, 70))
    # BatchNorm's statistics are those of a part, so that there accumulation is another training.
    accumulate = 1 if model["norm"] == "batch" else draw(st.integers(1, 3))

    def monitor(name):
        return {
            "metric": name,
            "patience": draw(st.integers(1, 3)),
            "min_delta": draw(MAYBE([0.0, 0.003])),
            "relative": draw(st.booleans()),
            "start_from_epoch": draw(st.integers(0, 2)),
        }

    def member():
        first, *others = monitors
        train = {
            "epochs": draw(st.integers(2, 6)),
            "batch_size": batch_size,
            "accumulate": accumulate,
            "clip_norm": draw(MAYBE([None, 0.3])),
            "clip_value": draw(MAYBE([None, 0.05])),
            "l1": draw(MAYBE([0.0, 0.001])),
            "l2": draw(MAYBE([0.0, 0.01])),
            "mixup": draw(MAYBE([0.2, 1.0])) if mixed else 0.0,
        }
        if smooth and ref == "iris":
            train["label_smoothing"] = draw(MAYBE([0.1, 0.3]))
        keep = {"ema": draw(MAYBE([0.8, 0.95])) if ema else None}
        keep |= {"swa": draw(MAYBE([0.2, 0.6])) if swa else None, "lawa": 2 if lawa else None}
        stop = monitor(first) | {"also": [monitor(name) for name in others]}
        return settings(
            ref,
            model=model,
            optim=draw(optimisers(optimiser)),
            schedule=draw(SCHEDULES),
            train=train,
            stop=stop | {"when": draw(MAYBE(["any", "all"]))},
            keep=keep,
        )

    return ref, [member() for _ in range(draw(st.integers(2, 4)))]


@options(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(crowd=crowds(), width=st.integers(1, 4))
def test_whatever_is_asked_for_both_engines_and_a_plain_loop_agree(crowd, width):
    ref, configs = crowd
    note([config.model_dump(exclude_defaults=True) for config in configs])
    source, asked = data(ref), members(*configs)
    expected = {member.key: solo(member, source) for member in asked}
    for engine in ("stacked", "sequential"):
        history, ends = train(asked, source, engine=engine, width=width)
        agree(history, ends, expected, source)
