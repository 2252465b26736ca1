//! A network as an ONNX model, in memory and as a file.

use std::collections::BTreeMap;
use std::path::Path;

use fndm_models::NetworkConfig;
use prost::Message;

use crate::graph::Graph;
use crate::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use crate::{Error, Result};

/// The set of operators.
pub const OPSET: i64 = 17;
/// The file format's version that goes with it.
const IR_VERSION: i64 = 8;
/// Protocol buffers have no longer messages.
const LIMIT: usize = i32::MAX as usize;

/// How weights stand in the file. The networks compute in f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stored {
    /// Single precision.
    #[default]
    F32,
    /// Half precision, widened by the graph. Half the bytes; nothing is lost of weights that were stored so, as those of model
    /// folders are.
    F16,
}

/// An ONNX model of one network.
#[derive(Clone, Debug)]
pub struct Network {
    proto: ModelProto,
    metadata: BTreeMap<String, String>,
}

impl Network {
    pub(crate) fn new<C: NetworkConfig>(graph: Graph<'_>, kind: &str, config: &C) -> Result<Self> {
        let proto = ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some("fndm".into()),
            producer_version: Some(env!("CARGO_PKG_VERSION").into()),
            doc_string: None,
            graph: Some(graph.finish()),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(OPSET),
            }],
            metadata_props: Vec::new(),
        };
        let metadata = BTreeMap::from([
            ("fndm.kind".into(), kind.into()),
            ("fndm.config".into(), serde_json::to_string(config)?),
        ]);
        Ok(Self { proto, metadata })
    }

    /// Adds a line to the metadata, or replaces the one of that key.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Says in words what the network is.
    #[must_use]
    pub fn with_description(mut self, text: impl Into<String>) -> Self {
        self.proto.doc_string = Some(text.into());
        self
    }

    /// What stands in the metadata.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The file's bytes. The same network gives the same.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut proto = self.proto.clone();
        proto.metadata_props = self
            .metadata
            .iter()
            .map(|(key, value)| StringStringEntryProto {
                key: Some(key.clone()),
                value: Some(value.clone()),
            })
            .collect();
        let got = proto.encoded_len();
        if got > LIMIT {
            let name = self.metadata.get("fndm.kind").cloned().unwrap_or_default();
            let limit = LIMIT;
            return Err(Error::TooLarge { name, got, limit });
        }
        Ok(proto.encode_to_vec())
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// As [`Network::to_bytes`], and when the file can't be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(fndm_files::write_atomic(path, self.to_bytes()?)?)
    }
}
