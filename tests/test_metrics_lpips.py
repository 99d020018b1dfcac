"""LPIPS with stand-in trunk weights written to disk in torchvision's format; nothing is ever downloaded."""

import hashlib
import socket

import pytest
import torch

from minirestore import metrics
from minirestore.metrics import perceptual

pytest.importorskip("lpips")
torchvision = pytest.importorskip("torchvision")

SIDES = {"alex": 32, "squeeze": 24, "vgg": 16}
FILES = {net: perceptual.TRUNKS[net][0] for net in SIDES}


@pytest.fixture(autouse=True)
def torch_home(tmp_path, monkeypatch):
    """An empty TORCH_HOME, and no way out to a network."""

    def refuse(*args, **kwargs):
        raise AssertionError("something tried to open a network connection")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


def features(net, seed=0):
    """Random trunk weights with torchvision's names and shapes, scaled to keep activations alive."""
    with torch.device("meta"):
        shapes = getattr(torchvision.models, perceptual.TRUNKS[net][1])().features.state_dict()
    generator = torch.Generator().manual_seed(seed)
    return {
        f"features.{name}": torch.randn(value.shape, generator=generator) * (2 / max(value[:1].numel(), 2)) ** 0.5
        for name, value in shapes.items()
    }


def write(folder, net, weights):
    path = folder / FILES[net]
    torch.save({**weights, "classifier.1.bias": torch.zeros(1000)}, path)
    return path


def image_pair(side, seed=0):
    x, y = torch.rand(2, 2, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return x, y


def reference_vgg(weights, heads, x, y):
    """LPIPS-VGG written from Zhang et al. 2018: convolutions, ReLU and pooling by hand, float64."""

    def layers(z):
        shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]]).double().view(2, 1, 3, 1, 1)
        z, taps = ((2 * z.double() - 1) - shift) / scale, []
        plan = {2: (0, 2), 3: (5, 7), 4: (10, 12, 14), 5: (17, 19, 21), 6: (24, 26, 28)}
        for stage, indices in plan.items():
            z = torch.max_pool2d(z, 2) if stage > 2 else z
            for index in indices:
                weight, bias = (weights[f"features.{index}.{kind}"].double() for kind in ("weight", "bias"))
                z = torch.conv2d(z, weight, bias, padding=1).relu()
            taps.append(z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return taps

    distances = [
        (heads[f"lin{i}.model.1.weight"].double() * (a - b) ** 2).sum(1).mean((1, 2))
        for i, (a, b) in enumerate(zip(layers(x), layers(y), strict=False))
    ]
    return sum(distances)


def test_vgg_equals_the_formula_with_the_weights_of_the_file(torch_home):
    import lpips as package

    weights = features("vgg")
    write(torch_home, "vgg", weights)
    heads = torch.load(f"{package.__path__[0]}/weights/v0.1/vgg.pth", map_location="cpu", weights_only=True)
    x, y = image_pair(20)
    scores = metrics.lpips(x, y)
    torch.testing.assert_close(scores, reference_vgg(weights, heads, x, y), rtol=1e-5, atol=0)
    assert scores.dtype == torch.float64 and scores.min() > 1e-3
    assert metrics.lpips(x, x).tolist() == [0, 0]


@pytest.mark.filterwarnings("ignore::UserWarning")  # torchvision on the argument names of lpips
@pytest.mark.parametrize("net", ["squeeze", "alex"])
def test_equals_the_lpips_package_reading_the_same_file(torch_home, net):
    import lpips as package

    weights = features(net)
    write(torch_home, net, weights)
    x, y = image_pair(SIDES[net] + 5)
    reference = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    for name, value in reference.net.named_parameters():
        value.copy_(weights["features." + name.split(".", 1)[1]])
    with torch.no_grad():
        expected = reference(x, y, normalize=True).flatten().double()
    torch.testing.assert_close(metrics.lpips(x, y, net=net), expected, rtol=1e-5, atol=1e-8)


def test_a_changed_file_changes_the_result_and_the_id(torch_home):
    x, y = image_pair(24)
    seen = []
    for seed in (0, 1):
        path = write(torch_home, "squeeze", features("squeeze", seed))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        assert metrics.lpips_id("squeeze") == f"lpips-squeeze-trunk-{digest}"
        results = metrics.evaluate(x, y, ["lpips-squeeze"])
        assert list(results) == [f"lpips-squeeze-trunk-{digest}"]
        seen.append(results[f"lpips-squeeze-trunk-{digest}"])
    assert (seen[0] - seen[1]).abs().min() > 1e-6


def test_only_the_published_file_earns_the_plain_id(torch_home, monkeypatch):
    path = write(torch_home, "squeeze", features("squeeze"))
    published = path.with_name(f"squeezenet1_1-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    path.rename(published)
    monkeypatch.setitem(perceptual.TRUNKS, "squeeze", (published.name, "squeezenet1_1", 24))
    assert metrics.lpips_id("squeeze") == "lpips-squeeze"
    assert list(metrics.evaluate(*image_pair(24), "lpips-squeeze")) == ["lpips-squeeze"]


@pytest.mark.parametrize("net", SIDES)
def test_without_weights_the_error_says_where_and_how(torch_home, net):
    assert not metrics.lpips_available(net)
    with pytest.raises(
        FileNotFoundError, match=f"lpips-{net}: no trunk weights at {torch_home}.*{FILES[net]}"
    ) as error:
        metrics.lpips(*image_pair(32), net=net)
    assert f"torchvision.models.{perceptual.TRUNKS[net][1]}(weights=" in str(error.value)
    with pytest.raises(FileNotFoundError):
        metrics.evaluate(*image_pair(32), [f"lpips-{net}"])
    assert list(torch_home.iterdir()) == []


@pytest.mark.parametrize("net", SIDES)
def test_the_smallest_side_works_and_one_less_is_refused(torch_home, net):
    write(torch_home, net, features(net))
    assert metrics.lpips_available(net)
    side = SIDES[net]
    assert torch.isfinite(metrics.lpips(*image_pair(side), net=net)).all()
    with pytest.raises(ValueError, match=f"lpips-{net}: needs sides of at least {side} pixels"):
        metrics.lpips(*image_pair(side - 1), net=net)


def test_autocast_gradients_and_grey(torch_home):
    write(torch_home, "squeeze", features("squeeze"))
    x, y = image_pair(32)
    expected = metrics.lpips(x, y, net="squeeze")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        measured = metrics.lpips(x.requires_grad_(), y, net="squeeze")
    assert torch.equal(measured, expected) and not measured.requires_grad
    grey = x[:, :1].detach(), y[:, :1]
    wide = tuple(z.repeat(1, 3, 1, 1) for z in grey)
    assert torch.equal(metrics.lpips(*grey, net="squeeze"), metrics.lpips(*wide, net="squeeze"))


def test_the_loss_is_the_metric_with_a_gradient_and_without_a_range(torch_home):
    write(torch_home, "squeeze", features("squeeze"))
    x, y = image_pair(32)
    x.requires_grad_()
    expected = metrics.lpips(x, y, net="squeeze")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = metrics.lpips_loss(x, y, net="squeeze")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    step = 1e-4 * gradient.sign()
    up, down = (metrics.lpips_loss(x + s, y, net="squeeze").sum().item() for s in (step, -step))
    assert (gradient * step).sum().item() == pytest.approx((up - down) / 2, rel=0.05)
    wide = (3 * x - 1).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(metrics.lpips_loss(wide, y, net="squeeze").sum(), wide)
    assert (gradient[(wide < 0) | (wide > 1)] != 0).float().mean() > 0.9
    metrics.lpips(x, y, net="squeeze")  # the metric leaves the network as the loss needs it
    assert torch.equal(metrics.lpips_loss(x, y, net="squeeze"), found)


def test_the_loss_has_a_finite_gradient_where_all_features_are_zero(torch_home):
    """Unit vectors have no derivative at zero, which the layers that made them zero must not pass on."""
    weights = features("vgg")
    weights["features.28.bias"] -= 1e3
    write(torch_home, "vgg", weights)
    x, y = image_pair(16)
    (gradient,) = torch.autograd.grad(metrics.lpips_loss(x.requires_grad_(), y).sum(), x)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_the_loss_refuses_what_the_metric_refuses(torch_home):
    x, y = image_pair(24)
    with pytest.raises(FileNotFoundError, match="lpips-squeeze: no trunk weights"):
        metrics.lpips_loss(x, y, net="squeeze")
    with pytest.raises(ValueError, match="net: expected one of"):
        metrics.lpips_loss(x, y, net="resnet")
    write(torch_home, "squeeze", features("squeeze"))
    with pytest.raises(ValueError, match="prediction and target must have the same shape"):
        metrics.lpips_loss(x[:1], y, net="squeeze")
    with pytest.raises(ValueError, match="prediction: both sides must be at least 24 pixels"):
        metrics.lpips_loss(x[..., :23], y[..., :23], net="squeeze")
    with pytest.raises(ValueError, match="target: expected 3 channels"):
        metrics.lpips_loss(x, y[:, :1], net="squeeze")


def test_unusable_files_are_refused(torch_home):
    good = features("squeeze")
    x, y = image_pair(24)
    missing = {name: value for name, value in good.items() if name != "features.12.expand3x3.bias"}
    wrong = {**good, "features.0.weight": torch.zeros(64, 3, 5, 5)}
    cases = [(missing, "features.12.expand3x3.bias is missing"), (wrong, "do not fit squeezenet1_1")]
    for weights, message in cases:
        write(torch_home, "squeeze", weights)
        with pytest.raises(ValueError, match=message):
            metrics.lpips(x, y, net="squeeze")
    path = write(torch_home, "squeeze", good)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="cannot be read.*fetch the file again"):
        metrics.lpips(x, y, net="squeeze")
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="expected a torchvision state dict"):
        metrics.lpips(x, y, net="squeeze")


def test_an_unknown_net_is_refused():
    with pytest.raises(ValueError, match="net: expected one of 'alex', 'squeeze', 'vgg', got 'resnet'"):
        metrics.lpips(*image_pair(32), net="resnet")
