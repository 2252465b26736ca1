//! `convert --onnx`. What the networks give is tested in fndm-onnx.

use std::fs;

use crate::common::{fndm, model, text, told};

#[test]
fn a_model_folder_as_onnx() {
    let place = tempfile::tempdir().unwrap();
    let (plain, half) = (place.path().join("f32"), place.path().join("f16"));
    let model = model();
    let out = fndm(&["convert", "--onnx", text(&model), text(&plain)]);
    assert!(out.status.success(), "{}", told(&out));
    assert!(told(&out).contains("3 networks of"), "{}", told(&out));
    let out = fndm(&[
        "convert",
        "--onnx",
        "--dtype",
        "f16",
        text(&model),
        text(&half),
    ]);
    assert!(out.status.success(), "{}", told(&out));
    for name in ["student.onnx", "unet.onnx", "classifier.onnx"] {
        let size = |folder: &std::path::Path| fs::metadata(folder.join(name)).unwrap().len();
        let stored = fs::metadata(model.join(name.replace(".onnx", ".safetensors")));
        let stored = stored.unwrap().len();
        // Weights are stored in half precision.
        assert!(size(&plain) > 2 * stored - 40_000, "{name}");
        assert!(size(&half) < stored + 120_000, "{name}");
    }
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for (input, wrong) in [
        (place.path().join("none"), "expected a model folder"),
        (empty, "model.json"),
    ] {
        let output = place.path().join("wrong");
        let out = fndm(&["convert", "--onnx", text(&input), text(&output)]);
        assert_eq!(out.status.code(), Some(1));
        assert!(told(&out).contains(wrong), "{}", told(&out));
        assert!(!output.exists());
    }
}
