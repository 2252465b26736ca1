//! The text of the kernels.

const PRELUDE: &str = include_str!("kernels/prelude.cu");

/// One file of kernels, compiled as one module.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: &'static str,
    text: &'static str,
    kernels: &'static [Kernels],
}

/// Names of kernels, by what follows them.
#[derive(Debug)]
enum Kernels {
    /// Nothing.
    Plain(&'static [&'static str]),
    /// The type.
    Typed(&'static [&'static str]),
    /// The type, and the values in a pack.
    Packed(&'static [&'static str]),
}

const TYPED: &[&str] = &["_f32", "_bf16"];
const PACKED: &[&str] = &["_f32_1", "_f32_4", "_bf16_1", "_bf16_4"];

pub(crate) static SOURCES: [Source; 4] = [
    Source {
        name: "fndm-norm",
        text: include_str!("kernels/norm.cu"),
        kernels: &[
            Kernels::Plain(&["norm_scale_shift"]),
            Kernels::Packed(&[
                "norm_moments",
                "norm_apply",
                "norm_small",
                "norm_grad_sums",
                "norm_grad_input",
            ]),
        ],
    },
    Source {
        name: "fndm-softmax",
        text: include_str!("kernels/softmax.cu"),
        kernels: &[Kernels::Typed(&["softmax", "softmax_grad"])],
    },
    Source {
        name: "fndm-elementwise",
        text: include_str!("kernels/elementwise.cu"),
        kernels: &[
            Kernels::Typed(&["expand", "reduce", "sum_rows"]),
            Kernels::Packed(&[
                "silu",
                "silu_grad",
                "combine",
                "copy_images",
                "add_bias",
                "plane_sums",
            ]),
        ],
    },
    Source {
        name: "fndm-optim",
        text: include_str!("kernels/optim.cu"),
        kernels: &[Kernels::Plain(&["adam", "ema"])],
    },
];

impl Source {
    /// What the compiler is given.
    pub(crate) fn text(&self) -> String {
        format!("{PRELUDE}\n{}", self.text)
    }

    /// The names of its kernels.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.kernels.iter().flat_map(|kernels| {
            let (names, endings) = match kernels {
                Kernels::Plain(names) => (*names, &[""][..]),
                Kernels::Typed(names) => (*names, TYPED),
                Kernels::Packed(names) => (*names, PACKED),
            };
            let with = |name: &'static str| endings.iter().map(move |end| format!("{name}{end}"));
            names.iter().flat_map(move |name| with(name))
        })
    }

    /// The file that has this kernel.
    pub(crate) fn of(kernel: &str) -> Option<&'static Self> {
        SOURCES
            .iter()
            .find(|s| s.names().any(|name| name == kernel))
    }
}

#[cfg(test)]
pub(crate) fn prelude() -> &'static str {
    PRELUDE
}

#[cfg(test)]
impl Source {
    pub(crate) fn own_text(&self) -> &'static str {
        self.text
    }
}
