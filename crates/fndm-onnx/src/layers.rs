//! The layers of the networks as operators of opset 17. Each is what the layer of the same name in fndm-models computes.

use crate::Result;
use crate::graph::{Graph, Value, float, int, ints, word};

const EPS: f32 = 1e-5;

/// A convolution of the checkpoint: its weight may have been stored with fewer spatial axes.
#[derive(Clone, Copy)]
pub(crate) struct Conv {
    pub(crate) channels: (usize, usize),
    pub(crate) side: usize,
    pub(crate) stride: usize,
}

impl Conv {
    /// 3 x 3, at every pixel.
    pub(crate) fn three(i: usize, o: usize) -> Self {
        Self {
            channels: (i, o),
            side: 3,
            stride: 1,
        }
    }

    /// Of single pixels.
    pub(crate) fn one(i: usize, o: usize) -> Self {
        Self {
            side: 1,
            ..Self::three(i, o)
        }
    }

    /// 3 x 3, at every second pixel.
    pub(crate) fn down(i: usize, o: usize) -> Self {
        Self {
            stride: 2,
            ..Self::three(i, o)
        }
    }
}

impl Graph<'_> {
    pub(crate) fn conv(&mut self, x: &Value, name: &str, conv: Conv) -> Result<Value> {
        let (i, o) = conv.channels;
        let weight = self.weight(&format!("{name}.weight"), &[o, i, conv.side, conv.side])?;
        let bias = self.weight(&format!("{name}.bias"), &[o])?;
        let (side, stride, pad) = (conv.side as i64, conv.stride as i64, (conv.side / 2) as i64);
        let attributes = vec![
            ints("kernel_shape", &[side, side]),
            ints("strides", &[stride, stride]),
            ints("pads", &[pad; 4]),
        ];
        Ok(self.op("Conv", &[x, &weight, &bias], attributes))
    }

    /// `x W^T + b` on `(B, I)`.
    pub(crate) fn linear(
        &mut self,
        x: &Value,
        name: &str,
        (i, o): (usize, usize),
    ) -> Result<Value> {
        let weight = self.weight(&format!("{name}.weight"), &[o, i])?;
        let bias = self.weight(&format!("{name}.bias"), &[o])?;
        Ok(self.op("Gemm", &[x, &weight, &bias], vec![int("transB", 1)]))
    }

    pub(crate) fn silu(&mut self, x: &Value) -> Value {
        let gate = self.op("Sigmoid", &[x], Vec::new());
        self.op("Mul", &[x, &gate], Vec::new())
    }

    pub(crate) fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.op("Add", &[a, b], Vec::new())
    }

    pub(crate) fn cat(&mut self, parts: &[&Value]) -> Value {
        self.op("Concat", parts, vec![int("axis", 1)])
    }

    /// `x` `(B, C, ...)` in the shape of `like`.
    fn shaped_as(&mut self, x: &Value, like: &Value) -> Value {
        let shape = self.op("Shape", &[like], Vec::new());
        self.op("Reshape", &[x, &shape], Vec::new())
    }

    pub(crate) fn reshape(&mut self, x: &Value, shape: &[i64]) -> Value {
        let shape = self.whole(shape);
        self.op("Reshape", &[x, &shape], Vec::new())
    }

    /// Channels `from` to `to`.
    fn channels(&mut self, x: &Value, from: usize, to: usize) -> Value {
        let (from, to) = (self.whole(&[from as i64]), self.whole(&[to as i64]));
        let axes = self.whole(&[1]);
        self.op("Slice", &[x, &from, &to, &axes], Vec::new())
    }

    /// The sequences of the slice itself among those of its neighbours.
    pub(crate) fn own_channels(&mut self, x: &Value, from: usize, count: usize) -> Value {
        self.channels(x, from, from + count)
    }

    /// Group norm of `x` `(B, C, ...)`. As an instance norm of `(B, groups, ...)`, for opset 17 has no group norm.
    pub(crate) fn group_norm(
        &mut self,
        x: &Value,
        name: &str,
        (channels, groups): (usize, usize),
        spatial: usize,
    ) -> Result<Value> {
        let grouped = self.reshape(x, &[0, groups as i64, -1]);
        let ones = self.floats(&format!("ones_{groups}"), &[groups], &vec![1.; groups]);
        let zeros = self.floats(&format!("zeros_{groups}"), &[groups], &vec![0.; groups]);
        let norm = self.op(
            "InstanceNormalization",
            &[&grouped, &ones, &zeros],
            vec![float("epsilon", EPS)],
        );
        let norm = self.shaped_as(&norm, x);
        let mut shape = vec![channels];
        shape.extend(vec![1; spatial]);
        let weight = self.weight(&format!("{name}.weight"), &shape)?;
        let bias = self.weight(&format!("{name}.bias"), &shape)?;
        let scaled = self.op("Mul", &[&norm, &weight], Vec::new());
        Ok(self.add(&scaled, &bias))
    }

    pub(crate) fn average_pool(&mut self, x: &Value, side: usize) -> Value {
        let side = [side as i64; 2];
        let attributes = vec![ints("kernel_shape", &side), ints("strides", &side)];
        self.op("AveragePool", &[x], attributes)
    }

    /// Every pixel twice, in both directions.
    pub(crate) fn upsample(&mut self, x: &Value) -> Value {
        let scales = self.floats("upsample_scales", &[4], &[1., 1., 2., 2.]);
        let attributes = vec![
            word("mode", "nearest"),
            word("coordinate_transformation_mode", "asymmetric"),
            word("nearest_mode", "floor"),
        ];
        // The second input, a region of interest, is left out.
        self.op("Resize", &[x, &String::new(), &scales], attributes)
    }

    /// Self-attention over all positions, of queries, keys and values in one tensor `(B, 3 C, ...)`: `(B, C, T)`.
    pub(crate) fn attention(
        &mut self,
        qkv: &Value,
        channels: usize,
        heads: usize,
        parts_first: bool,
    ) -> Value {
        let (head, count) = ((channels / heads) as i64, heads as i64);
        let (split, axis) = if parts_first {
            (self.reshape(qkv, &[0, 3, count, head, -1]), 1)
        } else {
            (self.reshape(qkv, &[0, count, 3, head, -1]), 2)
        };
        let scale = (head as f32).powf(-0.25);
        let scale = self.floats(&format!("attention_scale_{head}"), &[], &[scale]);
        let part = |graph: &mut Self, which: i64| {
            let which = graph.number(which);
            graph.op("Gather", &[&split, &which], vec![int("axis", axis)])
        };
        // Each (B, heads, C, T).
        let (q, k, v) = (part(self, 0), part(self, 1), part(self, 2));
        let q = self.op("Mul", &[&q, &scale], Vec::new());
        let k = self.op("Mul", &[&k, &scale], Vec::new());
        let swap = || vec![ints("perm", &[0, 1, 3, 2])];
        let q = self.op("Transpose", &[&q], swap());
        let logits = self.op("MatMul", &[&q, &k], Vec::new());
        let weights = self.op("Softmax", &[&logits], vec![int("axis", -1)]);
        let weights = self.op("Transpose", &[&weights], swap());
        let mixed = self.op("MatMul", &[&v, &weights], Vec::new());
        self.reshape(&mixed, &[0, channels as i64, -1])
    }

    /// A block of attention: norm, attention, convolution; plus the input.
    pub(crate) fn attention_block(
        &mut self,
        x: &Value,
        name: &str,
        channels: usize,
        heads: usize,
        parts_first: bool,
    ) -> Result<Value> {
        let groups = crate::encoder::GROUPS;
        let h = self.group_norm(x, &format!("{name}.norm"), (channels, groups), 2)?;
        let qkv = self.conv(
            &h,
            &format!("{name}.qkv"),
            Conv::one(channels, 3 * channels),
        )?;
        let mixed = self.attention(&qkv, channels, heads, parts_first);
        let mixed = self.shaped_as(&mixed, x);
        let out = self.conv(
            &mixed,
            &format!("{name}.proj_out"),
            Conv::one(channels, channels),
        )?;
        Ok(self.add(&out, x))
    }

    /// The mean over all positions of `(B, C, ...)`: `(B, C)`.
    pub(crate) fn spatial_mean(&mut self, x: &Value) -> Value {
        let flat = self.reshape(x, &[0, 0, -1]);
        let attributes = vec![ints("axes", &[2]), int("keepdims", 0)];
        self.op("ReduceMean", &[&flat], attributes)
    }

    /// Scale and shift of `(B, 2 C)`, each `(B, C, 1, 1)`.
    pub(crate) fn scale_shift(&mut self, time: &Value, channels: usize) -> (Value, Value) {
        let scale = self.channels(time, 0, channels);
        let shift = self.channels(time, channels, 2 * channels);
        let shape = [0, channels as i64, 1, 1];
        (self.reshape(&scale, &shape), self.reshape(&shift, &shape))
    }
}
