//! Layers, element by element, as the ONNX standard says what they compute.

use super::Dense;

/// Windows over two dimensions.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Rows and columns.
    pub size: [usize; 2],
    /// Between two windows.
    pub stride: [usize; 2],
    /// Between two elements of a window.
    pub dilation: [usize; 2],
    /// Above, left, below, right.
    pub pad: [usize; 4],
}

impl Window {
    /// Sizes of what comes out.
    pub fn out(&self, height: usize, width: usize) -> [usize; 2] {
        let along = |size: usize, axis: usize| {
            let reach = (self.size[axis] - 1) * self.dilation[axis] + 1;
            (size + self.pad[axis] + self.pad[axis + 2] - reach) / self.stride[axis] + 1
        };
        [along(height, 0), along(width, 1)]
    }

    /// Where a window's element lies, along an axis. `None`: in the pads.
    fn inside(&self, axis: usize, out: usize, place: usize, size: usize) -> Option<usize> {
        let at = out * self.stride[axis] + place * self.dilation[axis];
        at.checked_sub(self.pad[axis]).filter(|&at| at < size)
    }
}

/// `[n, c, h, w]` by `[o, c / groups, r, s]`.
pub fn conv(x: &Dense, weights: &Dense, bias: Option<&Dense>, window: &Window, groups: usize) -> Dense {
    let [n, c, h, w] = [x.dims[0], x.dims[1], x.dims[2], x.dims[3]];
    let (outputs, each) = (weights.dims[0], c / groups);
    let [oh, ow] = window.out(h, w);
    Dense::of(&[n, outputs, oh, ow], |at| {
        let group = at[1] / (outputs / groups);
        let mut sum = bias.map_or(0.0, |b| b.values[at[1]]);
        for i in 0..each {
            for r in 0..window.size[0] {
                let Some(y) = window.inside(0, at[2], r, h) else {
                    continue;
                };
                for s in 0..window.size[1] {
                    let Some(x_at) = window.inside(1, at[3], s, w) else {
                        continue;
                    };
                    sum += x.at(&[at[0], group * each + i, y, x_at]) * weights.at(&[at[1], i, r, s]);
                }
            }
        }
        sum
    })
}

/// The largest, or the mean, of windows; `counts`: pads count for a mean.
pub fn pool(x: &Dense, window: &Window, mean: bool, counts: bool) -> Dense {
    let [n, c, h, w] = [x.dims[0], x.dims[1], x.dims[2], x.dims[3]];
    let [oh, ow] = window.out(h, w);
    Dense::of(&[n, c, oh, ow], |at| {
        let (mut sum, mut most, mut count) = (0.0, f64::NEG_INFINITY, 0);
        for r in 0..window.size[0] {
            for s in 0..window.size[1] {
                let inside = (window.inside(0, at[2], r, h), window.inside(1, at[3], s, w));
                if let (Some(y), Some(x_at)) = inside {
                    let v = x.at(&[at[0], at[1], y, x_at]);
                    sum += v;
                    most = most.max(v);
                    count += 1;
                } else if counts {
                    let padded = |axis: usize, out: usize, place: usize, size: usize| {
                        out * window.stride[axis] + place * window.dilation[axis]
                            < size + window.pad[axis] + window.pad[axis + 2]
                    };
                    count += usize::from(padded(0, at[2], r, h) && padded(1, at[3], s, w));
                }
            }
        }
        if mean { sum / count as f64 } else { most }
    })
}

/// `[..., m, k]` by `[..., k, n]`, outer dimensions repeated.
pub fn matmul(a: &Dense, b: &Dense) -> Dense {
    let (ra, rb) = (a.dims.len(), b.dims.len());
    let (m, k, n) = (a.dims[ra - 2], a.dims[ra - 1], b.dims[rb - 1]);
    let rank = ra.max(rb);
    let outer = (0..rank - 2).map(|d| {
        let of = |dims: &[usize]| (d + dims.len()).checked_sub(rank).map_or(1, |own| dims[own]);
        of(&a.dims).max(of(&b.dims))
    });
    let mut dims: Vec<usize> = outer.collect();
    dims.extend([m, n]);
    Dense::of(&dims, |at| {
        let (outer, inner) = at.split_at(at.len() - 2);
        let row = |i: usize| [outer, &[inner[0], i]].concat();
        let col = |i: usize| [outer, &[i, inner[1]]].concat();
        (0..k).map(|i| a.repeated(&row(i)) * b.repeated(&col(i))).sum()
    })
}

/// Softmax along the last dimension.
pub fn softmax(x: &Dense) -> Dense {
    rows(x, |row| {
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = row.iter().map(|v| (v - most).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|p| p / sum).collect()
    })
}

/// Normalisation along the last dimension.
pub fn layer_norm(x: &Dense, gain: &Dense, offset: &Dense, epsilon: f64) -> Dense {
    rows(x, |row| {
        let (mean, variance) = moments(row);
        let scale = 1.0 / (variance + epsilon).sqrt();
        row.iter()
            .enumerate()
            .map(|(i, v)| (v - mean) * scale * gain.values[i] + offset.values[i])
            .collect()
    })
}

/// Normalisation of groups of channels of `[n, c, ...]`.
pub fn group_norm(x: &Dense, gain: &Dense, offset: &Dense, groups: usize, epsilon: f64) -> Dense {
    let channels = x.dims[1];
    let area: usize = x.dims[2..].iter().product();
    let each = channels / groups * area;
    let mut values = x.values.clone();
    for (group, part) in values.chunks_mut(each).enumerate() {
        let (mean, variance) = moments(part);
        let scale = 1.0 / (variance + epsilon).sqrt();
        for (i, v) in part.iter_mut().enumerate() {
            let channel = (group % groups) * (channels / groups) + i / area;
            *v = (*v - mean) * scale * gain.values[channel] + offset.values[channel];
        }
    }
    Dense {
        dims: x.dims.clone(),
        values,
    }
}

fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (
        mean,
        values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count,
    )
}

fn rows(x: &Dense, f: impl Fn(&[f64]) -> Vec<f64>) -> Dense {
    let length = x.dims.last().copied().unwrap_or(1);
    Dense {
        dims: x.dims.clone(),
        values: x.values.chunks(length).flat_map(f).collect(),
    }
}

/// What `f` makes of the elements along some axes, which stay with one element.
pub fn reduce(x: &Dense, axes: &[usize], f: impl Fn(&mut dyn Iterator<Item = f64>) -> f64) -> Dense {
    let dims: Vec<usize> = (0..x.dims.len())
        .map(|d| if axes.contains(&d) { 1 } else { x.dims[d] })
        .collect();
    Dense::of(&dims, |at| {
        let summed: Vec<usize> = axes.iter().map(|&a| x.dims[a]).collect();
        let inside = Dense::of(&summed, |inner| {
            let mut full = at.to_vec();
            for (&axis, &i) in axes.iter().zip(inner) {
                full[axis] = i;
            }
            x.at(&full)
        });
        f(&mut inside.values.into_iter())
    })
}

/// What `f` makes of each element of operands that are repeated to `dims`.
pub fn map(dims: &[usize], operands: &[&Dense], f: impl Fn(&[f64]) -> f64) -> Dense {
    Dense::of(dims, |at| {
        f(&operands.iter().map(|o| o.repeated(at)).collect::<Vec<_>>())
    })
}

/// Rows of `[o, rows, e]` by number.
pub fn gather(x: &Dense, rows: &[usize]) -> Dense {
    Dense::of(&[x.dims[0], rows.len(), x.dims[2]], |at| {
        x.at(&[at[0], rows[at[1]], at[2]])
    })
}

/// Images `[n, c, h, w]` at fractional places: for each output row and column, two inputs and the weight of the second.
pub fn resize(x: &Dense, ys: &[(usize, usize, f64)], xs: &[(usize, usize, f64)]) -> Dense {
    Dense::of(&[x.dims[0], x.dims[1], ys.len(), xs.len()], |at| {
        let ((y0, y1, wy), (x0, x1, wx)) = (ys[at[2]], xs[at[3]]);
        let row = |y: usize| x.at(&[at[0], at[1], y, x0]) * (1.0 - wx) + x.at(&[at[0], at[1], y, x1]) * wx;
        row(y0) * (1.0 - wy) + row(y1) * wy
    })
}

/// `[b, h, i, d]` by `[b, h, j, d]`, weighted `[b, h, j, d]`; a mask is added to the scores.
pub fn attention(q: &Dense, k: &Dense, v: &Dense, mask: Option<&Dense>, scale: f64) -> Dense {
    let (keys, depth) = (k.dims[2], k.dims[3]);
    let scores = Dense::of(&[q.dims[0], q.dims[1], q.dims[2], keys], |at| {
        let row = |d: usize| q.at(&[at[0], at[1], at[2], d]) * k.at(&[at[0], at[1], at[3], d]);
        (0..depth).map(row).sum::<f64>() * scale + mask.map_or(0.0, |m| m.repeated(at))
    });
    matmul(&softmax(&scores), v)
}
