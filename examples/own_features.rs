//! A feature extractor of one's own in a memory bank: any closure from images to maps.
//!
//! `cargo run --release --example own_features`

use fndm::candle_core::{Device, Result as Tensors, Tensor};
use fndm::data::phantom::PhantomConfig;
use fndm::data::{Patient, Preprocess, SliceSet};
use fndm::memory::{HealthyModel, MemoryBank, MemoryConfig, silent};
use fndm::{batch_tensor, metrics};

/// The images beside what stands out from its surroundings, then both at half the size. A network's maps are as good.
fn contrast(images: &Tensor) -> Tensors<Vec<Tensor>> {
    let (_, _, h, w) = images.dims4()?;
    let around = images.avg_pool2d(8)?.upsample_nearest2d(h, w)?;
    let fine = Tensor::cat(&[images, &(images - around)?], 1)?;
    Ok(vec![fine.clone(), fine.avg_pool2d(2)?])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let batch = |set: &SliceSet| batch_tensor(&set.images.view(), &Device::Cpu);
    let phantom = PhantomConfig {
        slices: 12,
        ..PhantomConfig::default()
    };
    let cut = |patient: Patient| Preprocess::default().apply(&patient);
    let healthy = |seeds: std::ops::Range<u64>| -> fndm::data::Result<SliceSet> {
        let patients = seeds.map(|seed| cut(phantom.healthy_patient(seed)?));
        SliceSet::from_patients(patients.collect::<Result<Vec<_>, _>>()?)
    };

    // A bank of ten healthy patients. Three others say from which distance on a pixel is unusual.
    let (seen, apart) = (healthy(0..10)?, healthy(10..13)?);
    let mut config = MemoryConfig::default();
    (config.position_weight, config.budget_bytes) = (1., 1 << 18);
    (
        config.patch.pretrain_dimension,
        config.patch.target_dimension,
    ) = (32, 32);
    let head = Some(seen.head.view());
    let mut bank = MemoryBank::build(&config, &contrast, &batch(&seen)?, head, &mut silent)?;
    bank.calibrate(&contrast, &batch(&apart)?, apart.head.view(), &mut silent)?;
    println!("{} rows, of {} patches\n", bank.len(), bank.patches_seen());

    println!("| patient | AUROC in the head | lesion inside x_seg | x_seg beside it |");
    println!("| --- | --- | --- | --- |");
    for seed in 20..25 {
        let test = cut(phantom.patient(seed)?)?;
        let truth = test.mask.clone().ok_or("the phantom has a mask")?;
        let test = SliceSet::from_patients([test])?;
        let map = bank.coarse(&contrast, &batch(&test)?, test.head.view())?;

        let pixels = map.soft.iter().zip(&truth).zip(&test.head);
        let inside = pixels.filter_map(|((&v, &lesion), &head)| head.then_some((v, lesion)));
        let (scores, lesion): (Vec<f32>, Vec<bool>) = inside.unzip();
        let auroc = metrics::auroc(&scores, &lesion)?.value();
        let found = metrics::Confusion::of(&map.binary.view(), &truth.view())?;
        println!(
            "| {seed} | {:.3} | {} of {} pixels | {} |",
            auroc.unwrap_or(f64::NAN),
            found.true_positive,
            found.true_positive + found.false_negative,
            found.false_positive
        );
    }
    Ok(())
}
