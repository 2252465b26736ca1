//! A graph in the making: nodes are named after the results that they give, and weights keep the names of the checkpoint.

use std::collections::BTreeSet;

use candle_core::{DType, Tensor};
use fndm_models::StateDict;

use crate::proto::{
    AttributeProto, DimensionProto, GraphProto, NodeProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto, attribute_type, data_type,
};
use crate::{Error, Result, Stored};

/// The name of a result.
pub(crate) type Value = String;

/// A size of an input or output.
#[derive(Clone, Copy)]
pub(crate) enum Dim {
    /// Of any size.
    Batch,
    Fixed(usize),
}

/// A graph in the making, on the weights of a checkpoint.
pub(crate) struct Graph<'a> {
    state: &'a StateDict,
    stored: Stored,
    proto: GraphProto,
    /// Results of weights and constants that stand in the graph already.
    there: BTreeSet<String>,
}

impl<'a> Graph<'a> {
    pub(crate) fn new(name: &str, state: &'a StateDict, stored: Stored) -> Self {
        Self {
            state,
            stored,
            proto: GraphProto {
                name: Some(name.into()),
                ..GraphProto::default()
            },
            there: BTreeSet::new(),
        }
    }

    pub(crate) fn finish(self) -> GraphProto {
        self.proto
    }

    /// An input of floats.
    pub(crate) fn input(&mut self, name: &str, shape: &[Dim], doc: &str) -> Value {
        let info = value_info(name, data_type::FLOAT, shape, doc);
        self.proto.input.push(info);
        name.into()
    }

    /// An input of whole numbers.
    pub(crate) fn integers(&mut self, name: &str, shape: &[Dim], doc: &str) -> Value {
        let info = value_info(name, data_type::INT64, shape, doc);
        self.proto.input.push(info);
        name.into()
    }

    /// Gives a value, under another name, as an output.
    pub(crate) fn output(&mut self, name: &str, value: &Value, shape: &[Dim], doc: &str) {
        self.named(name, "Identity", &[value], Vec::new());
        let info = value_info(name, data_type::FLOAT, shape, doc);
        self.proto.output.push(info);
    }

    /// A node of one result.
    pub(crate) fn op(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: Vec<AttributeProto>,
    ) -> Value {
        let name = format!("{}_{}", op.to_lowercase(), self.proto.node.len());
        self.named(&name, op, inputs, attributes);
        name
    }

    fn named(&mut self, name: &str, op: &str, inputs: &[&Value], attribute: Vec<AttributeProto>) {
        self.proto.node.push(NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![name.into()],
            name: Some(format!("node_{name}")),
            op_type: Some(op.into()),
            attribute,
        });
    }

    /// The checkpoint's tensor as floats, in a shape of as many values.
    pub(crate) fn weight(&mut self, name: &str, shape: &[usize]) -> Result<Value> {
        let Some(tensor) = self.state.get(name) else {
            return Err(Error::Weights {
                name: name.into(),
                expected: format!("{shape:?}"),
                got: "nothing".into(),
            });
        };
        if tensor.elem_count() != shape.iter().product::<usize>() {
            return Err(Error::Weights {
                name: name.into(),
                expected: format!("{shape:?}"),
                got: format!("{:?}", tensor.dims()),
            });
        }
        if !self.there.insert(name.into()) {
            return Ok(widened(name, self.stored));
        }
        let (kind, bytes) = bytes_of(tensor, name, self.stored)?;
        self.initializer(name, shape, kind, bytes);
        let result = widened(name, self.stored);
        if self.stored == Stored::F16 {
            let to = vec![int("to", data_type::FLOAT.into())];
            self.named(&result, "Cast", &[&name.to_owned()], to);
        }
        Ok(result)
    }

    /// A constant of floats.
    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        if self.there.insert(name.into()) {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            self.initializer(name, shape, data_type::FLOAT, bytes);
        }
        name.into()
    }

    /// A constant of whole numbers along one axis.
    pub(crate) fn whole(&mut self, values: &[i64]) -> Value {
        let parts: Vec<String> = values.iter().map(ToString::to_string).collect();
        let name = format!("whole_{}", parts.join("_"));
        if self.there.insert(name.clone()) {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            self.initializer(&name, &[values.len()], data_type::INT64, bytes);
        }
        name
    }

    /// A constant whole number, without axes.
    pub(crate) fn number(&mut self, value: i64) -> Value {
        let name = format!("number_{value}");
        if self.there.insert(name.clone()) {
            self.initializer(&name, &[], data_type::INT64, value.to_le_bytes().to_vec());
        }
        name
    }

    fn initializer(&mut self, name: &str, shape: &[usize], kind: i32, bytes: Vec<u8>) {
        self.proto.initializer.push(TensorProto {
            dims: shape.iter().map(|&n| n as i64).collect(),
            data_type: Some(kind),
            name: Some(name.into()),
            raw_data: Some(bytes),
        });
    }
}

/// The name under which a weight is used: as stored, or what a cast gives.
fn widened(name: &str, stored: Stored) -> String {
    match stored {
        Stored::F32 => name.into(),
        Stored::F16 => format!("{name}.f32"),
    }
}

fn bytes_of(tensor: &Tensor, name: &str, stored: Stored) -> Result<(i32, Vec<u8>)> {
    let values: Vec<f32> = tensor
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    Ok(match stored {
        Stored::F32 => {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (data_type::FLOAT, bytes)
        }
        Stored::F16 => {
            let mut bytes = Vec::with_capacity(2 * values.len());
            for value in values {
                let half = half::f16::from_f32(value);
                if value.is_finite() && !half.is_finite() {
                    return Err(Error::Weights {
                        name: name.into(),
                        expected: "values that half precision can hold".into(),
                        got: value.to_string(),
                    });
                }
                bytes.extend(half.to_le_bytes());
            }
            (data_type::FLOAT16, bytes)
        }
    })
}

fn value_info(name: &str, elem_type: i32, shape: &[Dim], doc: &str) -> ValueInfoProto {
    let dim = shape.iter().map(|dim| match dim {
        Dim::Batch => DimensionProto {
            dim_param: Some("batch".into()),
            dim_value: None,
        },
        Dim::Fixed(n) => DimensionProto {
            dim_param: None,
            dim_value: Some(*n as i64),
        },
    });
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: Some(elem_type),
                shape: Some(TensorShapeProto { dim: dim.collect() }),
            }),
        }),
        doc_string: Some(doc.into()),
    }
}

/// An attribute of one whole number.
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(value),
        kind: Some(attribute_type::INT),
        ..AttributeProto::default()
    }
}

/// An attribute of whole numbers.
pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ints: values.to_vec(),
        kind: Some(attribute_type::INTS),
        ..AttributeProto::default()
    }
}

/// An attribute of one number.
pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        f: Some(value),
        kind: Some(attribute_type::FLOAT),
        ..AttributeProto::default()
    }
}

/// An attribute of a word.
pub(crate) fn word(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        s: Some(value.as_bytes().to_vec()),
        kind: Some(attribute_type::STRING),
        ..AttributeProto::default()
    }
}
