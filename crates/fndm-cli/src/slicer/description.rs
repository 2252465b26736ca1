//! The module's description, in the XML of Slicer's execution model.

use std::fmt::Write;

use fndm::Method;

use super::OWN;

/// Flag, label and description of each input volume.
const INPUTS: [[&str; 3]; 6] = [
    ["flair", "FLAIR", "FLAIR"],
    ["t1", "T1", "T1 without contrast agent"],
    ["t1ce", "T1 with agent", "T1 with contrast agent"],
    ["t2", "T2", "T2"],
    ["dwi", "DWI", "Diffusion-weighted image"],
    ["adc", "ADC", "Apparent diffusion coefficient"],
];

pub(super) fn text() -> String {
    let mut inputs = String::new();
    for [flag, label, description] in INPUTS {
        let _ = write!(
            inputs,
            r#"
    <image fileExtensions=".nii.gz">
      <name>{flag}</name>
      <longflag>{flag}</longflag>
      <description>{description}, if the model takes it</description>
      <label>{label}</label>
      <channel>input</channel>
    </image>"#
        );
    }
    let mut methods = String::new();
    // A thousand steps a slice are nothing to wait for in a window.
    let rows = Method::ALL
        .into_iter()
        .filter(|&row| row != Method::Diffano);
    for method in std::iter::once(OWN).chain(rows.map(Method::key)) {
        let _ = write!(methods, "\n      <element>{method}</element>");
    }
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?>
<executable>
  <category>Segmentation</category>
  <title>Find lesions (fndm)</title>
  <description>Finds lesions in brain MR with a model that was trained on one bit per slice. All volumes must lie on one grid. Not a medical device.</description>
  <version>{version}</version>
  <license>Apache-2.0</license>
  <contributor>the authors of fndm</contributor>
  <parameters>
    <label>Model</label>
    <description>What finds the lesions</description>
    <directory>
      <name>model</name>
      <longflag>model</longflag>
      <description>A model folder, as fndm train writes it</description>
      <label>Model folder</label>
      <channel>input</channel>
    </directory>
    <string-enumeration>
      <name>method</name>
      <longflag>method</longflag>
      <description>The method; model is what the model was found best by</description>
      <label>Method</label>
      <default>{OWN}</default>{methods}
    </string-enumeration>
  </parameters>
  <parameters>
    <label>Input</label>
    <description>The sequences that the model takes, all on one grid</description>{inputs}
  </parameters>
  <parameters>
    <label>Output</label>
    <description>What is found</description>
    <image type="label" fileExtensions=".nii.gz">
      <name>mask</name>
      <longflag>mask</longflag>
      <description>The lesions</description>
      <label>Lesion mask</label>
      <channel>output</channel>
    </image>
    <image fileExtensions=".nii.gz">
      <name>anomaly</name>
      <longflag>anomaly</longflag>
      <description>How anomalous each voxel is</description>
      <label>Anomaly map</label>
      <channel>output</channel>
    </image>
    <double>
      <name>lesionVolume</name>
      <index>1000</index>
      <description>Volume of all lesions together, in cubic millimetres</description>
      <label>Lesion volume (mm3)</label>
      <default>0</default>
      <channel>output</channel>
    </double>
  </parameters>
</executable>"#
    )
}
