"""The diffusion transformer of C2F-DFT: parity with the released network, sizes, and what its parts do."""

import json
from pathlib import Path

import by_rule
import numpy as np
import pytest
import torch

from minirestore import diffusion
from minirestore.networks import count_parameters
from minirestore.papers import c2f_dft as paper
from minirestore.papers.c2f_dft import config

GOLDEN = Path(__file__).parent / "golden" / "c2f_dft"
BY_RULE = {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(GOLDEN / "by_rule.npz").items()}
SHAPES = json.loads((GOLDEN / "released_shapes.json").read_text())
NAMES = {"WithBias": "with_bias", "BiasFree": "bias_free"}
TINY = {"dim": 16, "blocks": (1, 1, 1, 1)}


def released_shapes(dim, blocks, norm):
    """Released names and shapes of a smaller network, from those of the published one (dim 48)."""
    found = {}
    for name, shape in SHAPES.items():
        stage, _, rest = name.partition(".")
        level = int(stage[-1]) - 1 if stage.startswith(("encoder", "decoder")) else 3
        number = rest.split(".")[0]
        if number.isdigit() and not stage.startswith(("down", "up")) and int(number) >= blocks[level]:
            continue
        if norm == "bias_free" and name.endswith(".bias"):
            continue
        keep = ("attn.temperature",)
        scaled = [s if s in (1, 3, 6) or name.endswith(keep) else s * dim // 48 for s in shape]
        found[name] = tuple(scaled)
    return found


def network(norm="with_bias", scales=None):
    """The tiny network with the rule's weights."""
    dft = paper.DFT(paper.DFTConfig(norm=norm, **TINY))
    by_rule.fill(dft, released_shapes(16, (1, 1, 1, 1), norm), paper.from_released_name, scales)
    return dft


def golden(file):
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(GOLDEN / f"{file}.npz").items()}


# ---------------------------------------------------------------- sizes and names


@pytest.mark.parametrize(
    ("dim", "blocks", "norm", "count"),
    [
        (48, (4, 6, 6, 8), "with_bias", 25_363_344),
        (48, (4, 6, 6, 8), "bias_free", 25_349_136),
        (48, (1, 1, 1, 1), "with_bias", 6_846_598),
        (32, (2, 3, 3, 4), "with_bias", 6_506_120),
        (32, (2, 2, 2, 2), "with_bias", 4_413_932),
        (24, (1, 1, 1, 1), "with_bias", 1_721_518),
        (16, (1, 1, 1, 1), "with_bias", 769_510),
        (16, (1, 1, 1, 1), "bias_free", 768_774),
    ],
)
def test_parameter_counts(dim, blocks, norm, count):
    with torch.device("meta"):
        assert count_parameters(paper.DFT(paper.DFTConfig(dim=dim, blocks=blocks, norm=norm))) == count


def test_every_released_name_is_ours_with_the_same_shape():
    with torch.device("meta"):
        ours = {name: list(value.shape) for name, value in paper.DFT().state_dict().items()}
    assert len(SHAPES) == 410
    assert {paper.from_released_name(name): shape for name, shape in SHAPES.items()} == ours


@pytest.mark.parametrize(
    "name", ["encoder_level4.0.norm1.body.weight", "refinement.0.attn.qkv.weight", "latent.0.x", ""]
)
def test_names_that_the_released_network_lacks_are_refused(name):
    with pytest.raises(ValueError, match="no parameter of the released network"):
        paper.from_released_name(name)


# ---------------------------------------------------------------- parity


def test_the_time_embedding_is_the_released_one():
    values = golden("time_embedding")
    for channels in (16, 32, 48, 96, 192, 384):
        found = paper.time_embedding(values["t"], channels)[:, :, 0, 0]
        torch.testing.assert_close(found, values[f"silu_{channels}"], rtol=1e-5, atol=1e-5)
    odd = torch.nn.functional.silu(values["odd_17"])
    torch.testing.assert_close(paper.time_embedding(values["t"], 17)[:, :, 0, 0], odd, rtol=1e-5, atol=1e-5)


def test_the_time_embedding_is_that_of_diffusers():
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0.0, 333.0, 666.0, 999.0])
    theirs = torch.nn.functional.silu(get_timestep_embedding(t, 48))
    torch.testing.assert_close(paper.time_embedding(t, 48)[:, :, 0, 0], theirs, rtol=0, atol=5e-5)


@pytest.mark.parametrize("kind", NAMES)
def test_layer_normalisation_is_the_released_one(kind):
    values = golden(f"layernorm_{kind}")
    norm = paper.ChannelNorm(16, NAMES[kind])
    norm.load_state_dict({k.removeprefix("sd/body."): v for k, v in values.items() if k.startswith("sd/")})
    torch.testing.assert_close(norm(values["x"]), values["y"], rtol=1e-5, atol=1e-5)


def test_down_and_upsampling_are_the_released_ones():
    values = golden("down_up")
    for name, layer in {"down": paper.Downsample(16), "up": paper.Upsample(16)}.items():
        layer.conv.weight.data = values[f"{name}/body.0.weight"]
        torch.testing.assert_close(layer(values["x"]), values[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NAMES)
def test_one_block_is_the_released_one(kind):
    block = paper.DiffusionTransformerBlock(32, 4, paper.DFTConfig(norm=NAMES[kind]))
    back = {paper.from_released_name(f"latent.0.{k}").removeprefix("latent.0."): k for k in block_names(kind)}
    shapes = {back[name]: tuple(value.shape) for name, value in block.state_dict().items()}
    by_rule.fill(block, shapes, paper.from_released_name)
    x, T = by_rule.inputs("c2f.dtb_x", (2, 32, 12, 16)), paper.time_embedding(torch.tensor([17.0, 731.0]), 32)
    torch.testing.assert_close(block(x, T), BY_RULE[f"dtb_{kind}/y"], rtol=0, atol=2e-5)


def block_names(kind):
    """Names of one released block's parameters."""
    names = [name.removeprefix("latent.0.") for name in SHAPES if name.startswith("latent.0.")]
    return [name for name in names if kind == "WithBias" or not name.endswith(".bias")]


@pytest.mark.parametrize("kind", NAMES)
def test_the_network_is_the_released_one(kind):
    dft, latents = network(NAMES[kind]), []
    dft.latent[-1].register_forward_hook(lambda module, arguments, output: latents.append(output))
    y, x_t = by_rule.inputs("c2f.cond", (2, 3, 32, 40), "pm1"), by_rule.inputs("c2f.x_t", (2, 3, 32, 40))
    with torch.no_grad():
        eps = dft(y, x_t, torch.tensor([333.0, 999.0]))
    torch.testing.assert_close(eps, BY_RULE[f"net_{kind}/eps"], rtol=0, atol=2e-5)
    torch.testing.assert_close(latents[0], BY_RULE[f"net_{kind}/act_latent"], rtol=0, atol=2e-5)


def test_loss_and_gradients_of_the_coarse_stage_are_the_released_ones():
    dft, shape = network(), (4, 3, 32, 32)
    clean, degraded = (2 * by_rule.inputs(f"c2f.coarse_{name}", shape, "unit") - 1 for name in ("gt", "lq"))
    eps, t = by_rule.inputs("c2f.coarse_e", shape), torch.tensor([5, 640, 901, 994])
    alpha_bar = diffusion.make_alpha_bar(diffusion.make_betas("linear", 1000, 1e-4, 0.02))[t]
    loss = (dft(degraded, diffusion.add_noise(clean, eps, alpha_bar), t.float()) - eps).abs().mean()
    torch.testing.assert_close(loss.double(), BY_RULE["coarse/loss"].double(), rtol=1e-5, atol=0)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in dft.named_parameters()}
    checked = 0
    for key, right in BY_RULE.items():
        kind, _, name = key.removeprefix("coarse/").partition("/")
        if key.startswith("coarse/grad"):
            found = gradients[paper.from_released_name(name)]
            found = found.norm() if kind == "gradnorm" else found
            assert (found - right).abs().max() <= 1e-3 * right.abs().max(), key
            checked += 1
    assert checked == 10


def test_four_calls_of_the_implicit_sampler_are_the_released_ones():
    """The released sampler visits t = 999, 666, 333, 0; the samplers of this package take those levels as they are."""
    dft = network(scales={"output.weight": 0.01})
    y, x_T = by_rule.inputs("c2f.sampler_cond", (1, 3, 32, 32), "pm1"), by_rule.inputs("c2f.sampler_xT", (1, 3, 32, 32))
    alpha_bar = diffusion.make_alpha_bar(diffusion.make_betas("linear", 1000, 1e-4, 0.02))
    visited = torch.tensor([999, 666, 333, 0])
    levels, states = torch.cat([alpha_bar[visited], torch.ones(1)]), []

    def denoise(x_t, level):
        t = visited[len(states)].float().expand(len(x_t))
        states.append(x_t)  # x_T, then what each call made
        eps = dft(y, x_t, t)
        return diffusion.x0_from_eps(x_t, eps, level), eps

    with torch.no_grad():
        states.append(diffusion.ddim(denoise, x_T, levels))
    for number, state in enumerate(states[1:], 1):
        torch.testing.assert_close(state, BY_RULE[f"sampler/x{number}"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("where", config.TIME_IN)
@pytest.mark.parametrize("kind", config.NORMS)
@pytest.mark.parametrize("position", config.TIME_POSITIONS)
def test_every_variant_is_its_formula(monkeypatch, kind, where, position):
    """Outputs and all gradients against the plain transcription that the benchmark is measured against."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import c2f_dft as benchmark

    for scale in config.ATTENTION_SCALES:
        dft = benchmark.make_network(benchmark.small_network(kind, scale, where, position))
        for batch in (2, 16):  # on both sides of the batch size that changes how pointwise convolutions run
            benchmark.check_parity(dft, benchmark.make_inputs(batch, 16))


# ---------------------------------------------------------------- properties


def test_attention_rows_sum_to_one_and_do_not_depend_on_the_order_of_pixels():
    attention = paper.DiffusionSelfAttention(8, 2, "multiply")
    torch.nn.init.dirac_(attention.depthwise.weight, groups=24)  # no mixing of neighbours
    x = torch.randn(2, 8, 6, 5, generator=torch.Generator().manual_seed(0))
    weights, _ = attention.attention(x)
    assert weights.shape == (2, 2, 4, 4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 4))
    turned, _ = attention.attention(x.flip(-1))
    torch.testing.assert_close(turned, weights)


def test_dividing_by_the_inverse_temperature_is_multiplying():
    a, b = (paper.DiffusionSelfAttention(8, 2, scale) for scale in config.ATTENTION_SCALES)
    b.load_state_dict(a.state_dict())
    a.temperature.data[:] = torch.tensor([2.0, 0.5])[:, None, None]
    b.temperature.data[:] = 1 / a.temperature.data
    x = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(a(x), b(x))
    b.temperature.data[:] = a.temperature.data
    assert (a(x) - b(x)).abs().max() > 1e-4


@pytest.mark.parametrize("where", config.TIME_IN)
def test_the_time_reaches_only_where_it_is_told(where):
    block = paper.DiffusionTransformerBlock(8, 1, paper.DFTConfig(time_in=where))
    x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(2))
    early, late = (paper.time_embedding(torch.tensor([t]), 8) for t in (10.0, 900.0))
    changed = {}
    for half, other in (("attention", block.feed_forward.project), ("feed_forward", block.attention.project)):
        kept = other.weight.data.clone()
        other.weight.data.zero_()  # the other half adds nothing
        changed[half] = not torch.equal(block(x, early), block(x, late))
        other.weight.data.copy_(kept)
    assert changed == {half: where in ("both", half) for half in changed}


def test_the_network_takes_any_multiple_of_eight_and_refuses_others():
    dft = paper.DFT(paper.DFTConfig(dim=8, blocks=(1, 1, 1, 1), heads=(1, 1, 2, 2)))
    for shape in ((1, 3, 8, 8), (2, 3, 16, 24)):
        x = torch.zeros(shape)
        assert dft(x, x, torch.zeros(shape[0])).shape == shape
    with pytest.raises(ValueError, match="multiples of 8, got 12x8"):
        dft(torch.zeros(1, 3, 12, 8), torch.zeros(1, 3, 12, 8), torch.zeros(1))


@pytest.mark.parametrize("layout", ["params_ema", "params", "plain"])
def test_a_released_checkpoint_loads_by_its_own_names(tmp_path, layout):
    weights = {f"module.{k}": by_rule.weight(k, s) for k, s in released_shapes(16, (1, 1, 1, 1), "bias_free").items()}
    stored = weights if layout == "plain" else {layout: weights}
    if layout == "params_ema":
        stored["params"] = {name: value + 1 for name, value in weights.items()}
    torch.save(stored, tmp_path / "net.pth")
    loaded = paper.load_official(tmp_path / "net.pth", paper.C2FDFTConfig(norm="bias_free", **TINY))
    assert not loaded.training
    for name, value in network("bias_free").state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value), name
    assert loaded.restore(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match="does not fit this module"):
        paper.load_official(tmp_path / "net.pth")
    with pytest.raises(FileNotFoundError, match="download the released checkpoint"):
        paper.load_official(tmp_path / "absent.pth")


@pytest.mark.parametrize("norm", ["with_bias", "bias_free"])
def test_a_released_checkpoint_of_the_published_size_restores_as_released(tmp_path, norm, monkeypatch):
    monkeypatch.setattr(paper.transformer.DFT, "forward", lambda self, y, x_t, t: seen.append(int(t[0])) or x_t)
    seen = []
    with torch.device("meta"):
        ours = paper.DFT(paper.DFTConfig(norm=norm)).state_dict()
    names = {paper.from_released_name(name): name for name in SHAPES}
    weights = {names[k]: torch.zeros(1).expand(v.shape) for k, v in ours.items()}  # one number each in the file
    torch.save({"params_ema": weights}, tmp_path / "net.pth")
    loaded = paper.load_official(tmp_path / "net.pth")
    c = loaded.config
    assert (c.norm, c.dim, c.blocks, c.stage) == (norm, 48, (4, 6, 6, 8), "fine")
    assert (c.ssim, c.ssim_range, c.step_rule, c.sampling_steps) == ("ms_ssim", 255.0, "released", 3)
    loaded.restore(torch.zeros(1, 3, 8, 8))
    assert seen == [999, 666, 333, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "batch"}, "norm: expected one of with_bias, bias_free, got 'batch'"),
        ({"attention_scale": "add"}, "attention_scale: expected one of"),
        ({"time_in": "all"}, "time_in: expected one of"),
        ({"blocks": (1, 1, 1)}, "blocks: expected four numbers"),
        ({"heads": (1, 2, 4, 0)}, "heads: expected four numbers"),
        ({"heads": (5, 2, 4, 8)}, "multiple of its heads"),
        ({"dim": 9, "heads": (1, 1, 1, 1)}, "dim must be even"),
        ({"ffn_factor": 0.0}, "ffn_factor positive"),
    ],
)
def test_wrong_configurations_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        paper.DFTConfig(**settings)


def test_too_few_channels_for_the_time_embedding_are_refused():
    with pytest.raises(ValueError, match="channels: expected at least 4, got 3"):
        paper.time_embedding(torch.zeros(1), 3)
