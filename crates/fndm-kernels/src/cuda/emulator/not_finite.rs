//! What isn't finite comes out of every program that it goes into.

use super::super::machine::{Kind, Machine};
use super::super::program::attention::Attention;
use super::super::program::norm::{Gradients, Inputs, Norm};
use super::super::program::{elementwise, optim};
use super::tests::{KINDS, in_every_order};
use candle_core::Result;

const BAD: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// Small numbers of both signs.
fn some(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 37 + 11) % 97) as f32 / 48. - 1.)
        .collect()
}

fn with(mut values: Vec<f32>, at: usize, bad: f32) -> Vec<f32> {
    values[at] = bad;
    values
}

/// Exactly the values that `lost` names aren't finite.
fn only(what: &str, got: &[f32], lost: impl Fn(usize) -> bool) {
    for (i, v) in got.iter().enumerate() {
        assert_eq!(!v.is_finite(), lost(i), "{what}: value {i} is {v}");
    }
}

#[test]
fn one_value_in_one_value_out() -> Result<()> {
    let (n, w, at) = (24, 4, 7);
    for (kind, _) in KINDS {
        for bad in BAD {
            let (x, fine) = (with(some(n), at, bad), some(n));
            let Some(got) = in_every_order(|m| {
                let (x, fine) = (m.floats(kind, &x), m.floats(kind, &fine));
                let (x, fine) = (m.view(&x), m.view(&fine));
                let all = [n, n, n, n, 4 * n, n / 4, n, 2]
                    .map(|n| m.alloc(kind, n))
                    .into_iter()
                    .collect::<Result<Vec<_>>>()?;
                let out: Vec<_> = all.iter().map(|b| m.view(b)).collect();
                elementwise::silu(m, x, out[0], n)?;
                elementwise::silu_grad(m, x, fine, out[1], n)?;
                elementwise::silu_grad(m, fine, x, out[2], n)?;
                elementwise::combine(m, &[(0., x), (1., fine)], out[3], n)?;
                elementwise::expand(m, x, out[4], (n / w, w), 1.)?;
                elementwise::reduce(m, x, out[5], (n / w / 2, w / 2), 0.25)?;
                elementwise::copy_images(m, (x, n), (out[6], n), n, 1)?;
                elementwise::bias_grad(m, x, (1, 2, n / 2), false, out[7])?;
                Ok(all)
            })?
            else {
                return Ok(());
            };
            let name = |what: &str| format!("{what} of {bad}, {kind:?}");
            for (i, what) in ["silu", "gradient of silu", "gradient", "sum"]
                .iter()
                .enumerate()
            {
                only(&name(what), &got[i], |i| i == at);
            }
            let (row, column) = (at / w, at % w);
            only(&name("expand"), &got[4], |i| {
                (i / (4 * w), i % (2 * w) / 2) == (row, column)
            });
            only(&name("reduce"), &got[5], |i| {
                (i / (w / 2), i % (w / 2)) == (row / 2, column / 2)
            });
            only(&name("copy"), &got[6], |i| i == at);
            only(&name("gradient of bias"), &got[7], |i| i == 0);
        }
    }
    Ok(())
}

#[test]
fn normalisation() -> Result<()> {
    // One chunk, and several.
    for (channels, pixels) in [(4, 6), (4, 5120)] {
        for (kind, _) in KINDS {
            let (n, groups) = (channels * pixels, 2);
            let at = pixels + 3;
            let large: Vec<f32> = some(n).iter().map(|v| v * 1e25).collect();
            let inputs = BAD
                .map(|bad| (with(some(n), at, bad), 1))
                .into_iter()
                .chain([(large, groups)]);
            for (x, lost_groups) in inputs {
                let program = Norm {
                    batch: 1,
                    channels,
                    pixels,
                    groups,
                    eps: 1e-5,
                    activate: true,
                    per_image: false,
                };
                let Some(got) = in_every_order(|m| {
                    let (xb, dyb) = (m.floats(kind, &x), m.floats(kind, &some(n)));
                    let small = m.floats(Kind::F32, &some(channels));
                    let inputs = Inputs {
                        x: m.view(&xb),
                        factor: m.view(&small),
                        offset: m.view(&small),
                    };
                    let (y, dx) = (m.alloc(kind, n)?, m.alloc(kind, n)?);
                    let moments = m.alloc(Kind::F32, program.moments())?;
                    program.forward(m, &inputs, m.view(&y), m.view(&moments))?;
                    let (df, d0) = (m.alloc(Kind::F32, channels)?, m.alloc(Kind::F32, channels)?);
                    let gradients = Gradients {
                        x: m.view(&dx),
                        factor: m.view(&df),
                        offset: m.view(&d0),
                    };
                    let moments = m.view(&moments);
                    program.backward(m, &inputs, moments, m.view(&dyb), &gradients)?;
                    Ok(vec![y, dx, df, d0])
                })?
                else {
                    return Ok(());
                };
                let each = [n, n, channels, channels];
                for ((got, n), what) in got.iter().zip(each).zip(["y", "x", "factor", "offset"]) {
                    let what = format!("{what} of {:e}, {pixels} pixels, {kind:?}", x[at]);
                    only(&what, got, |i| i < n / groups * lost_groups);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn attention() -> Result<()> {
    let (heads, channels, tokens) = (2, 3, 40);
    let n = heads * channels * tokens;
    let program = Attention {
        heads,
        channels,
        tokens,
    };
    let run = |kind, inputs: &[Vec<f32>; 4]| {
        in_every_order(|m| {
            let there = inputs.each_ref().map(|v| m.floats(kind, v));
            let all = (0..4)
                .map(|_| m.alloc(kind, n))
                .collect::<Result<Vec<_>>>()?;
            let qkv = [&there[0], &there[1], &there[2]].map(|b| m.view(b));
            program.forward(m, qkv, m.view(&all[0]))?;
            let grads = [&all[1], &all[2], &all[3]].map(|b| m.view(b));
            program.backward(m, qkv, m.view(&there[3]), grads)?;
            Ok(all)
        })
    };
    let (channel, token) = (1, 5);
    let at = channel * tokens + token;
    let head = |i: usize| i / (channels * tokens);
    for (kind, _) in KINDS {
        // Logits that overflow: no attention is made of them.
        let large: Vec<f32> = some(n).iter().map(|v| v * 1e30).collect();
        let Some(got) = run(kind, &[large.clone(), large, some(n), some(n)])? else {
            return Ok(());
        };
        for got in &got[..3] {
            only("overflow", got, |_| true);
        }
        for bad in BAD {
            let put = |which: usize| {
                let mut inputs = [0; 4].map(|_| some(n));
                inputs[which][at] = bad;
                inputs
            };
            // A query: its own output, and the gradients of all keys.
            let Some(got) = run(kind, &put(0))? else {
                return Ok(());
            };
            only("query", &got[0], |i| head(i) == 0 && i % tokens == token);
            only("query: keys", &got[2], |i| head(i) == 0);
            only("query: values", &got[3], |i| head(i) == 0);
            // A value: its channel.
            let Some(got) = run(kind, &put(2))? else {
                return Ok(());
            };
            only("value", &got[0], |i| i / tokens == channel);
            only("value: queries", &got[1], |i| head(i) == 0);
            // A gradient of the output: that query's, and those of all values in its channel.
            let Some(got) = run(kind, &put(3))? else {
                return Ok(());
            };
            only("gradient", &got[0], |_| false);
            only("gradient: queries", &got[1], |i| {
                head(i) == 0 && i % tokens == token
            });
            only("gradient: values", &got[3], |i| i / tokens == channel);
        }
        // A key that is NaN is in every sum of its head.
        let mut inputs = [0; 4].map(|_| some(n));
        inputs[1][at] = f32::NAN;
        let Some(got) = run(kind, &inputs)? else {
            return Ok(());
        };
        for got in &got {
            only("key", got, |i| head(i) == 0);
        }
    }
    Ok(())
}

#[test]
fn updates() -> Result<()> {
    let (n, at) = (20, 13);
    let step = crate::AdamStep::default();
    for bad in BAD {
        let Some(got) = in_every_order(|m| {
            let put = |v: Vec<f32>| m.floats(Kind::F32, &v);
            let squares = || some(n).iter().map(|v| v * v).collect();
            let all = vec![put(some(n)), put(some(n)), put(squares()), put(some(n))];
            let g = put(with(some(n), at, bad));
            let tensors = [([&all[0], &all[1], &all[2], &g].map(|b| m.view(b)), n)];
            optim::adam(m, &tensors, &crate::optim::constants(&step, 1.))?;
            optim::ema(m, &[([m.view(&all[3]), m.view(&g)], n)], 0.01)?;
            Ok(all)
        })?
        else {
            return Ok(());
        };
        for (got, what) in got.iter().zip(["parameter", "first", "second", "average"]) {
            only(&format!("{what} of {bad}"), got, |i| i == at);
        }
    }
    Ok(())
}
