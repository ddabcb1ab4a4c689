//! Convolutions of random shapes.

use graft_model::SplitMix;

use super::{ACTIVATIONS, Case, Making, pick, tensor};
use crate::params::Element;
use crate::reference::{self as exact, Window};

/// What a convolution's case is like.
struct ConvShape {
    n: usize,
    channels: usize,
    outputs: usize,
    groups: usize,
    height: usize,
    width: usize,
    window: Window,
}

pub(super) fn window(random: &mut SplitMix, largest: usize) -> Window {
    let size = [1 + random.below(largest), 1 + random.below(largest)];
    Window {
        size,
        stride: [1 + random.below(3), 1 + random.below(2)],
        dilation: [1 + random.below(2), 1 + random.below(2)],
        pad: std::array::from_fn(|_| random.below(largest)),
    }
}

pub(super) fn lists(window: &Window) -> [Vec<i64>; 4] {
    let list = |all: &[usize]| all.iter().map(|&n| n as i64).collect();
    [
        list(&window.size),
        list(&window.stride),
        list(&window.dilation),
        list(&window.pad),
    ]
}

fn conv_case(random: &mut SplitMix, shape: &ConvShape, kernel: &'static str) -> Case {
    let ConvShape {
        n,
        channels,
        outputs,
        groups,
        height,
        width,
        window,
    } = shape;
    let x = tensor(random, &[*n, *channels, *height, *width]);
    let weights = tensor(
        random,
        &[*outputs, channels / groups, window.size[0], window.size[1]],
    );
    let bias = tensor(random, &[*outputs]);
    let mut making = Making::new();
    making.input("x", Element::F16, &x);
    making.constant("w", &weights);
    making.constant("b", &bias);
    let [size, strides, dilations, pads] = lists(window);
    let attributes: [(&str, &[i64]); 5] = [
        ("kernel_shape", &size),
        ("strides", &strides),
        ("dilations", &dilations),
        ("pads", &pads),
        ("group", &[*groups as i64]),
    ];
    let inputs: &[&str] = if random.below(2) == 0 {
        &["x", "w", "b"]
    } else {
        &["x", "w"]
    };
    making.node("Conv", inputs, "conv", &attributes);
    let mut expected = exact::conv(
        &x,
        &weights,
        Some(&bias).filter(|_| inputs.len() == 3),
        window,
        *groups,
    );
    let mut last = "conv";
    if random.below(2) == 0 {
        let (kind, activation) = pick(random, &ACTIVATIONS);
        making.node(kind, &[last], "activated", &[]);
        expected.values.iter_mut().for_each(|v| *v = activation.of(*v));
        last = "activated";
    }
    if random.below(2) == 0 {
        let more = tensor(random, &expected.dims);
        making.input("more", Element::F16, &more);
        making.node("Add", &[last, "more"], "added", &[]);
        expected
            .values
            .iter_mut()
            .zip(&more.values)
            .for_each(|(v, m)| *v += m);
        if random.below(2) == 0 {
            making.node("Relu", &["added"], "last", &[]);
            expected.values.iter_mut().for_each(|v| *v = v.max(0.0));
        }
    }
    let label = format!(
        "conv {n}x{channels}x{height}x{width} to {outputs}, {groups} group(s), window {:?}, stride {:?}, dilation {:?}, pads {:?}",
        window.size, window.stride, window.dilation, window.pad
    );
    making.done(label, expected, kernel)
}

pub(super) fn fitting(window: &Window, axis: usize, random: &mut SplitMix, most: usize) -> usize {
    (window.size[axis] - 1) * window.dilation[axis] + 1 + random.below(most)
}

/// Channels of a multiple of 8, and of 4 and 2.
pub(super) fn conv(random: &mut SplitMix, round: usize) -> Case {
    let window = window(random, 3);
    let groups = pick(random, &[1, 1, 2]);
    let each = [8, 16, 40, 4, 12, 2, 6][round % 7];
    let shape = ConvShape {
        n: 1 + random.below(3),
        channels: each * groups,
        outputs: groups * pick(random, &[8, 24, 70]),
        groups,
        height: fitting(&window, 0, random, 10),
        width: fitting(&window, 1, random, 10),
        window,
    };
    conv_case(random, &shape, "conv_64x64_v8")
}

/// Enough pixels for large tiles.
pub(super) fn conv_large(random: &mut SplitMix, round: usize) -> Case {
    let window = Window {
        size: [1, 1],
        stride: [1, 1],
        dilation: [1, 1],
        pad: [0; 4],
    };
    let shape = ConvShape {
        n: 1,
        channels: pick(random, &[8, 40]),
        outputs: [40, 136][round % 2],
        groups: 1,
        height: 45,
        width: 46 + random.below(5),
        window,
    };
    conv_case(random, &shape, ["conv_128x64_v8", "conv_128x128_v8"][round % 2])
}

/// Any numbers of channels.
pub(super) fn conv_odd(random: &mut SplitMix, _: usize) -> Case {
    let window = window(random, 5);
    let shape = ConvShape {
        n: 1 + random.below(2),
        channels: pick(random, &[1, 3, 5, 7, 33]),
        outputs: pick(random, &[1, 3, 9, 17, 65]),
        groups: 1,
        height: fitting(&window, 0, random, 12),
        width: fitting(&window, 1, random, 12),
        window,
    };
    conv_case(random, &shape, "conv_64x64_v1")
}

pub(super) fn depthwise(random: &mut SplitMix, round: usize) -> Case {
    let window = window(random, 5);
    let channels = [8, 32, 5, 12][round % 4];
    let shape = ConvShape {
        n: 1 + random.below(2),
        channels,
        outputs: channels * [1, 1, 2][round % 3],
        groups: channels,
        height: fitting(&window, 0, random, 10),
        width: fitting(&window, 1, random, 10),
        window,
    };
    conv_case(random, &shape, "depthwise_v8")
}
