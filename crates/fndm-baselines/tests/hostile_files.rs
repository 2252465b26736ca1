//! Files of fitted methods that aren't as they were written: an error that names what is wrong, never a panic and never a wrong map.

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use common::{slices, test_slices};
use fndm_baselines::cflow::{CflowMethod, CflowSettings};
use fndm_baselines::csflow::{CsFlowMethod, CsFlowSettings};
use fndm_baselines::dae::{DaeMethod, DaeSettings, UNetConfig};
use fndm_baselines::fastflow::{FastFlowMethod, FastFlowSettings};
use fndm_baselines::flair::FlairMethod;
use fndm_baselines::padim::{PadimMethod, PadimSettings};
use fndm_baselines::patch_core::{self, PatchCoreMethod};
use fndm_baselines::reverse_distillation::{ReverseMethod, ReverseSettings};
use fndm_baselines::stfpm::{StfpmMethod, StfpmSettings};
use fndm_baselines::{Extractor, Fit, Method};
use fndm_memory::{Coreset, CoresetSize, MemoryConfig};
use fndm_models::{Limits, ResNetConfig};

/// Maps of 8, 4 and 2 pixels a side, of four channels each.
fn features() -> Extractor {
    Arc::new(|x: &Tensor| -> candle_core::Result<Vec<Tensor>> {
        let four = Tensor::cat(&[x, &x.sqr()?, &x.sin()?, &x.cos()?], 1)?;
        let half = |t: &Tensor| t.avg_pool2d(2);
        let fine = half(&four)?;
        let middle = half(&fine)?;
        Ok(vec![fine, middle.clone(), half(&middle)?])
    })
}

/// One map, half as large as the slice, whatever its size.
fn one_map() -> Extractor {
    Arc::new(|x: &Tensor| -> candle_core::Result<Vec<Tensor>> {
        let four = Tensor::cat(&[x, &x.sqr()?, &x.sin()?, &x.cos()?], 1)?;
        Ok(vec![four.avg_pool2d(2)?])
    })
}

/// Every method, as small as it goes.
fn methods() -> Vec<Box<dyn Method>> {
    let student = ResNetConfig {
        planes: vec![4, 4, 4],
        blocks: vec![1, 1, 1],
        ..ResNetConfig::resnet18()
    };
    let memory = patch_core::official();
    vec![
        Box::new(StfpmMethod {
            settings: StfpmSettings {
                student,
                epochs: 1,
                batch: 4,
                ..StfpmSettings::official()
            },
            extractor: features(),
        }),
        Box::new(ReverseMethod {
            settings: ReverseSettings {
                epochs: 1,
                batch: 4,
                ..ReverseSettings::official()
            },
            extractor: features(),
        }),
        Box::new(CflowMethod {
            settings: CflowSettings {
                blocks: 2,
                condition: 4,
                epochs: 1,
                sub_epochs: 1,
                batch: 4,
                fibre: 16,
                ..CflowSettings::anomalib()
            },
            extractor: features(),
        }),
        Box::new(CsFlowMethod {
            settings: CsFlowSettings {
                image_size: None,
                hidden: 4,
                kernels: vec![3],
                epochs: 1,
                batch: 4,
                ..CsFlowSettings::official()
            },
            extractor: one_map(),
        }),
        Box::new(FastFlowMethod {
            settings: FastFlowSettings {
                steps: 2,
                epochs: 1,
                batch: 4,
                ..FastFlowSettings::official()
            },
            extractor: features(),
        }),
        Box::new(PadimMethod {
            settings: PadimSettings::official(),
            extractor: features(),
        }),
        Box::new(PatchCoreMethod {
            config: MemoryConfig {
                coreset: Coreset {
                    size: CoresetSize::Rows(8),
                    projection: None,
                    ..memory.coreset.clone()
                },
                ..memory
            },
            extractor: features(),
        }),
        Box::new(DaeMethod {
            settings: DaeSettings {
                network: UNetConfig {
                    in_channels: 1,
                    out_channels: 1,
                    depth: 2,
                    width_log2: 2,
                    ..UNetConfig::default()
                },
                epochs: 1,
                batch: 4,
                ..DaeSettings::official()
            },
        }),
        Box::new(FlairMethod),
    ]
}

/// Fits a method and saves it, alone in a folder: the folder, and its only file.
fn saved(method: &dyn Method) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let fitted = method.fit(&slices(), &Fit::new(3, &Device::Cpu)).unwrap();
    fitted.save(folder.path()).unwrap();
    let files: Vec<PathBuf> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1, "{}: {files:?}", method.name());
    let file = files[0].clone();
    (folder, file)
}

/// Whether the folder gives a method with finite maps; else the error in words.
fn read(method: &dyn Method, folder: &Path) -> Result<(), String> {
    let fitted = method
        .load(folder, &Limits::default(), &Device::Cpu)
        .map_err(|e| chain(&e))?;
    let maps = fitted.maps(&test_slices()).map_err(|e| chain(&e))?;
    let values: Vec<f32> = maps.flatten_all().unwrap().to_vec1().unwrap();
    assert!(values.iter().all(|v| v.is_finite()), "{}", method.name());
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|s| format!(": {}", chain(s)));
    format!("{error}{}", source.unwrap_or_default())
}

/// The safetensors file with other tensors, and its description as it was.
fn rewrite(file: &Path, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let bytes = std::fs::read(file).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let about = header.metadata().clone();
    let mut tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    change(&mut tensors);
    let views: Vec<_> = tensors.iter().collect();
    safetensors::serialize_to_file(views, about, file).unwrap();
}

fn is_safetensors(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == "safetensors")
}

#[test]
fn as_they_were_written_they_are_read() {
    for method in methods() {
        let (folder, _) = saved(method.as_ref());
        assert_eq!(read(method.as_ref(), folder.path()), Ok(()));
    }
}

#[test]
fn cut_short_anywhere_they_are_refused() {
    for method in methods() {
        let (folder, file) = saved(method.as_ref());
        let whole = std::fs::read(&file).unwrap();
        for length in [0, 1, 7, whole.len() / 2, whole.len() - 1] {
            if length >= whole.len() {
                continue;
            }
            std::fs::write(&file, &whole[..length]).unwrap();
            let found = read(method.as_ref(), folder.path());
            assert!(found.is_err(), "{}: {length} bytes", method.name());
        }
    }
}

#[test]
fn another_methods_file_is_refused() {
    let all = methods();
    let files: Vec<_> = all.iter().map(|m| saved(m.as_ref())).collect();
    for (method, (_, own)) in all.iter().zip(&files) {
        for (other, (_, file)) in all.iter().zip(&files) {
            if method.name() == other.name() || is_safetensors(own) != is_safetensors(file) {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            std::fs::copy(file, folder.path().join(own.file_name().unwrap())).unwrap();
            let found = read(method.as_ref(), folder.path());
            let both = (method.name(), other.name());
            assert!(found.is_err(), "{both:?}");
        }
    }
}

#[test]
fn a_missing_tensor_and_one_of_another_shape_are_refused() {
    for method in methods() {
        let (folder, file) = saved(method.as_ref());
        if !is_safetensors(&file) {
            continue;
        }
        let whole = std::fs::read(&file).unwrap();
        let names = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        let counts = |name: &String| name.ends_with("num_batches_tracked");
        for name in names.keys().filter(|name| !counts(name)) {
            rewrite(&file, |tensors| {
                tensors.remove(name);
            });
            let found = read(method.as_ref(), folder.path());
            assert!(found.is_err(), "{}: without {name}", method.name());
            std::fs::write(&file, &whole).unwrap();
            rewrite(&file, |tensors| {
                let longer = Tensor::zeros((3, 5, 7), DType::F32, &Device::Cpu).unwrap();
                tensors.insert(name.clone(), longer);
            });
            let found = read(method.as_ref(), folder.path());
            assert!(found.is_err(), "{}: another {name}", method.name());
            std::fs::write(&file, &whole).unwrap();
        }
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    for method in methods() {
        let (folder, file) = saved(method.as_ref());
        if !is_safetensors(&file) {
            continue;
        }
        let whole = std::fs::read(&file).unwrap();
        let names = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        for (name, tensor) in names.iter().filter(|(_, t)| t.dtype() == DType::F32) {
            for bad in [f32::NAN, f32::INFINITY] {
                rewrite(&file, |tensors| {
                    let values = vec![bad; tensor.elem_count()];
                    let filled = Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap();
                    tensors.insert(name.clone(), filled);
                });
                let found = read(method.as_ref(), folder.path());
                assert!(found.is_err(), "{}: {name} of {bad}", method.name());
                std::fs::write(&file, &whole).unwrap();
            }
        }
    }
}

#[test]
fn a_plain_number_that_is_none_is_refused() {
    let (folder, file) = saved(&FlairMethod);
    for text in [
        "",
        "-1",
        "1e9",
        "\"flair\"",
        "99999999999999999999999999",
        "[0]",
    ] {
        std::fs::write(&file, text).unwrap();
        assert!(read(&FlairMethod, folder.path()).is_err(), "{text}");
    }
    // A sequence that the slices don't have.
    std::fs::write(&file, "7").unwrap();
    assert!(read(&FlairMethod, folder.path()).is_err());
}
