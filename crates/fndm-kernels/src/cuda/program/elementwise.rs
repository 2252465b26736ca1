//! Operations that only move memory.

use super::super::machine::{Arg, Kind, Launch, Machine, View, size};
use super::pack;
use candle_core::Result;

const THREADS: u32 = 256;
/// Terms that the kernel takes.
const TERMS: usize = 4;

/// One thread for each of `n` items.
fn each<M: Machine>(machine: &M, kernel: &str, n: usize, args: &[Arg]) -> Result<()> {
    machine.launch(&Launch {
        kernel,
        blocks: size(n.div_ceil(THREADS as usize))?,
        threads: THREADS,
        args,
    })
}

fn name(what: &str, views: &[View], v: usize) -> String {
    format!("{what}_{}_{v}", views[0].kind.suffix())
}

/// `y = x * sigmoid(x)` of `n` values.
pub(crate) fn silu<M: Machine>(machine: &M, x: View, y: View, n: usize) -> Result<()> {
    let v = pack(&[x, y], &[n]);
    let count = (n / v) as u64;
    each(
        machine,
        &name("silu", &[x], v),
        n / v,
        &[x.into(), y.into(), count.into()],
    )
}

/// The gradient of x from that of y.
pub(crate) fn silu_grad<M: Machine>(
    machine: &M,
    x: View,
    dy: View,
    dx: View,
    n: usize,
) -> Result<()> {
    let v = pack(&[x, dy, dx], &[n]);
    let count = (n / v) as u64;
    each(
        machine,
        &name("silu_grad", &[x], v),
        n / v,
        &[x.into(), dy.into(), dx.into(), count.into()],
    )
}

/// `y`, the sum of `coefficient * x` over the terms (at least one), of `n` values.
pub(crate) fn combine<M: Machine>(
    machine: &M,
    terms: &[(f32, View)],
    y: View,
    n: usize,
) -> Result<()> {
    let mut rest = terms;
    let mut carried = None;
    while !rest.is_empty() {
        let room = TERMS - usize::from(carried.is_some());
        let (now, later) = rest.split_at(room.min(rest.len()));
        let mut all: Vec<(f32, View)> = carried.into_iter().collect();
        all.extend(now);
        let views: Vec<View> = all.iter().map(|t| t.1).chain([y]).collect();
        let v = pack(&views, &[n]);
        let count = all.len() as u32;
        all.resize(TERMS, (0., all[0].1));
        let mut args: Vec<Arg> = all.iter().map(|t| t.1.into()).collect();
        args.extend(all.iter().map(|t| Arg::F32(t.0)));
        args.extend([y.into(), Arg::U64((n / v) as u64), count.into()]);
        each(machine, &name("combine", &[y], v), n / v, &args)?;
        carried = Some((1., y));
        rest = later;
    }
    Ok(())
}

/// Each of `(planes, h, w)` times `scale` to the 2x2 values of `(planes, 2h, 2w)`.
pub(crate) fn expand<M: Machine>(
    machine: &M,
    x: View,
    y: View,
    (rows, w): (usize, usize),
    scale: f32,
) -> Result<()> {
    resample(machine, "expand", x, y, (rows, w), scale)
}

/// The sum of each 2x2 block of `(planes, 2h, 2w)` times `scale` to `(planes, h, w)`; `rows` is `planes * h`.
pub(crate) fn reduce<M: Machine>(
    machine: &M,
    x: View,
    y: View,
    (rows, w): (usize, usize),
    scale: f32,
) -> Result<()> {
    resample(machine, "reduce", x, y, (rows, w), scale)
}

fn resample<M: Machine>(
    machine: &M,
    what: &str,
    x: View,
    y: View,
    (rows, w): (usize, usize),
    scale: f32,
) -> Result<()> {
    let large = if what == "expand" { y } else { x };
    if !large.address.is_multiple_of(2 * large.kind.bytes() as u64) {
        candle_core::bail!("cuda: expected an image that begins at an even value");
    }
    let count = (rows * w) as u64;
    each(
        machine,
        &format!("{what}_{}", x.kind.suffix()),
        rows * w,
        &[
            x.into(),
            y.into(),
            count.into(),
            size(w)?.into(),
            scale.into(),
        ],
    )
}

/// Copies `n` values of each image, from images of `from` values to images of `to` values.
pub(crate) fn copy_images<M: Machine>(
    machine: &M,
    (x, from): (View, usize),
    (y, to): (View, usize),
    n: usize,
    batch: usize,
) -> Result<()> {
    let v = pack(&[x, y], &[n, from, to]);
    let count = batch * n / v;
    each(
        machine,
        &name("copy_images", &[x], v),
        count,
        &[
            x.into(),
            y.into(),
            (count as u64).into(),
            size(n / v)?.into(),
            size(from / v)?.into(),
            size(to / v)?.into(),
        ],
    )
}

/// `y += bias`: y is `(batch, channels, pixels)`, bias `(channels)` or `(batch, channels)`, whose length is `values`.
pub(crate) fn add_bias<M: Machine>(
    machine: &M,
    y: View,
    bias: View,
    planes: usize,
    pixels: usize,
    values: usize,
) -> Result<()> {
    let v = pack(&[y], &[pixels]);
    let count = planes * pixels / v;
    each(
        machine,
        &name("add_bias", &[y], v),
        count,
        &[
            y.into(),
            bias.into(),
            (count as u64).into(),
            size(pixels / v)?.into(),
            size(values)?.into(),
        ],
    )
}

/// The gradient of a bias of `(channels)`, or of `(batch, channels)` with `per_image`, from dy `(batch, channels, pixels)`.
pub(crate) fn bias_grad<M: Machine>(
    machine: &M,
    dy: View,
    (batch, channels, pixels): (usize, usize, usize),
    per_image: bool,
    db: View,
) -> Result<()> {
    let v = pack(&[dy], &[pixels]);
    let sums = machine.alloc(Kind::F32, batch * channels)?;
    let sums = machine.view(&sums);
    machine.launch(&Launch {
        kernel: &name("plane_sums", &[dy], v),
        blocks: size(batch * channels)?,
        threads: THREADS,
        args: &[dy.into(), sums.into(), size(pixels / v)?.into()],
    })?;
    let (rows, n) = if per_image {
        (1, batch * channels)
    } else {
        (batch, channels)
    };
    sum_rows(machine, sums, db, rows, n)
}

/// `(rows, n)` in f32 to the sum `(n)`.
pub(crate) fn sum_rows<M: Machine>(
    machine: &M,
    x: View,
    y: View,
    rows: usize,
    n: usize,
) -> Result<()> {
    each(
        machine,
        &format!("sum_rows_{}", y.kind.suffix()),
        n,
        &[x.into(), y.into(), size(rows)?.into(), size(n)?.into()],
    )
}
