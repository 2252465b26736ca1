//! Networks with inputs and what they give, in a folder that a script reads.

mod slices;

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use fndm::{ModelConfig, model_folder as names};
use fndm_models::{
    Classifier, ClassifierConfig, Limits, Parameters, Segmenter, SegmenterConfig, StateDict, UNet,
    UNetConfig,
};
use fndm_onnx::{Network, Stored};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde_json::{Value, json};

pub(crate) use slices::Slices;

const CPU: Device = Device::Cpu;

pub(crate) fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let normal = StandardNormal.sample_iter(&mut rng);
    let values: Vec<f32> = normal.take(shape.iter().product()).collect();
    Tensor::from_vec(values, shape, &CPU).unwrap()
}

pub(crate) struct Cases {
    folder: tempfile::TempDir,
    count: usize,
}

impl Cases {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            count: 0,
        }
    }

    pub(crate) fn compare(&self, python: &Path) {
        assert!(self.count > 0);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compare.py");
        crate::python::run(python, &script, self.folder.path());
    }

    fn add(
        &mut self,
        name: &str,
        network: &Network,
        inputs: &[(&str, &Tensor)],
        outputs: &[(&str, &Tensor)],
    ) {
        self.count += 1;
        let model = format!("{name}.onnx");
        network.save(self.folder.path().join(&model)).unwrap();
        let write = |(array, tensor): &(&str, &Tensor)| -> Value {
            let file = format!("{name}.{array}.raw");
            let flat = tensor.flatten_all().unwrap();
            let (kind, bytes): (_, Vec<u8>) = if tensor.dtype() == DType::F32 {
                let values = flat.to_vec1::<f32>().unwrap();
                ("f32", values.iter().flat_map(|v| v.to_le_bytes()).collect())
            } else {
                let values = flat.to_dtype(DType::I64).unwrap().to_vec1::<i64>().unwrap();
                ("i64", values.iter().flat_map(|v| v.to_le_bytes()).collect())
            };
            fs::write(self.folder.path().join(&file), bytes).unwrap();
            json!({ "name": array, "file": file, "type": kind, "shape": tensor.dims() })
        };
        let said = json!({
            "model": model,
            "inputs": inputs.iter().map(write).collect::<Vec<_>>(),
            "outputs": outputs.iter().map(write).collect::<Vec<_>>(),
        });
        let path = self.folder.path().join(format!("{name}.json"));
        fs::write(path, said.to_string()).unwrap();
    }

    /// Weights as stored in half precision, with both ways of storing them in the ONNX file.
    pub(crate) fn add_folder(&mut self, name: &str, folder: &Path, slices: &Slices) {
        let config = ModelConfig::read(&folder.join(names::CONFIG)).unwrap();
        for (stored, kind) in [(Stored::F32, "f32"), (Stored::F16, "f16")] {
            for (file, network) in fndm_onnx::model_folder(folder, stored).unwrap() {
                let weights = file.replace(".onnx", ".safetensors");
                let state = StateDict::read(folder.join(&weights), &Limits::default()).unwrap();
                let case = format!("{name}-{kind}-{}", file.trim_end_matches(".onnx"));
                if weights == names::STUDENT {
                    let options = &config.student.as_ref().unwrap().network;
                    self.run_segmenter(&case, options, &state, &network, &slices.seen(options));
                } else if weights == names::CLASSIFIER {
                    let options = config.classifier.as_ref().unwrap();
                    self.run_classifier(&case, options, &state, &network, &slices.images);
                } else {
                    let own = config.separate.iter();
                    let mut own = own.filter(|(m, _)| names::separate(**m) == weights);
                    let options = match own.next() {
                        Some((_, own)) => &own.unet,
                        None => config.unet.as_ref().unwrap(),
                    };
                    let x = slices.conditioned(options.in_channels);
                    self.run_unet(&case, options, &state, &network, &x);
                }
            }
        }
    }

    pub(crate) fn add_unet(&mut self, name: &str, config: &UNetConfig) {
        let state = random_weights(|p| drop(UNet::new(config, p.builder()).unwrap()));
        let network = fndm_onnx::unet(config, &state, Stored::F32).unwrap();
        let side = config.image_size;
        let x = random(&[3, config.in_channels, side, side], 1);
        self.run_unet(name, config, &state, &network, &x);
    }

    pub(crate) fn add_classifier(&mut self, name: &str, config: &ClassifierConfig) {
        let state = random_weights(|p| drop(Classifier::new(config, p.builder()).unwrap()));
        let network = fndm_onnx::classifier(config, &state, Stored::F32).unwrap();
        let side = config.image_size;
        let x = random(&[3, config.in_channels, side, side], 2);
        self.run_classifier(name, config, &state, &network, &x);
    }

    pub(crate) fn add_segmenter(&mut self, name: &str, config: &SegmenterConfig) {
        let state = random_weights(|p| drop(Segmenter::new(config, p.builder()).unwrap()));
        let network = fndm_onnx::segmenter(config, &state, Stored::F32, true).unwrap();
        let side = config.image_size;
        let x = random(&[3, config.in_channels(), side, side], 3);
        self.run_segmenter(name, config, &state, &network, &x);
    }

    fn run_unet(
        &mut self,
        name: &str,
        config: &UNetConfig,
        state: &StateDict,
        network: &Network,
        x: &Tensor,
    ) {
        let own = UNet::from_state_dict(config, state, DType::F32, &CPU).unwrap();
        let t = times(x);
        let y = config.num_classes.map(|classes| {
            let labels: Vec<u32> = (0..x.dim(0).unwrap())
                .map(|n| (n % classes) as u32)
                .collect();
            Tensor::new(labels, &CPU).unwrap()
        });
        let output = own.forward(x, &t, y.as_ref()).unwrap();
        let mut inputs = vec![("x", x), ("t", &t)];
        if let Some(y) = &y {
            inputs.push(("y", y));
        }
        self.add(name, network, &inputs, &[("output", &output)]);
    }

    fn run_classifier(
        &mut self,
        name: &str,
        config: &ClassifierConfig,
        state: &StateDict,
        network: &Network,
        x: &Tensor,
    ) {
        let own = Classifier::from_state_dict(config, state, DType::F32, &CPU).unwrap();
        let t = times(x);
        let logits = own.forward(x, &t).unwrap();
        self.add(
            name,
            network,
            &[("x", x), ("t", &t)],
            &[("logits", &logits)],
        );
    }

    fn run_segmenter(
        &mut self,
        name: &str,
        config: &SegmenterConfig,
        state: &StateDict,
        network: &Network,
        x: &Tensor,
    ) {
        let own = Segmenter::from_state_dict(config, state, DType::F32, &CPU).unwrap();
        let output = own.forward(x).unwrap();
        // 1 / (1 + exp(-v)), by candle's own operations.
        let one = Tensor::ones_like(&output).unwrap();
        let probability = (&one / (output.neg().unwrap().exp().unwrap() + &one).unwrap()).unwrap();
        self.add(
            name,
            network,
            &[("x", x)],
            &[("output", &output), ("probability", &probability)],
        );
    }
}

/// Times of the whole range, fractions among them.
fn times(x: &Tensor) -> Tensor {
    let n = x.dim(0).unwrap();
    let times: Vec<f32> = (0..n).map(|i| [0., 437.25, 999., 12.][i % 4]).collect();
    Tensor::new(times, &CPU).unwrap()
}

/// Weights of a network that `build` makes; those that start at zero or one are drawn too.
fn random_weights(build: impl Fn(&Parameters)) -> StateDict {
    let parameters = Parameters::new(5, DType::F32, &CPU);
    build(&parameters);
    let state = parameters.state_dict().unwrap();
    let drawn = state
        .tensors()
        .iter()
        .enumerate()
        .map(|(n, (name, tensor))| {
            let noise = (random(tensor.dims(), 100 + n as u64) * 0.05).unwrap();
            (name.clone(), (tensor + noise).unwrap())
        });
    StateDict::new(drawn.collect())
}
