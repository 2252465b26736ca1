use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use fndm_train::{Draw, LoopConfig, Loss, Setup, Task};

use super::fibres::{Fibre, Fibres};
use super::{CflowModel, CflowNetwork, loss};
use crate::fit::Extractor;
use crate::flow_task::{fixed_builder, for_trainer};
use crate::flows::Source;
use crate::healthy::Healthy;

/// Features of a batch of images as rows, layer by layer, with the batch's number.
type Rows = (u64, Vec<Tensor>);

/// The training by fibres: an iteration is one step on the rows of one layer.
pub(super) struct CflowTask {
    pub(super) model: CflowModel,
    pub(super) common: LoopConfig,
    pub(super) extractor: Extractor,
    pub(super) healthy: Healthy,
    pub(super) fibres: Fibres,
    pub(super) fixed: BTreeMap<String, Tensor>,
    /// Many fibres are made of one batch of images.
    pub(super) last: RefCell<Option<Rows>>,
}

impl CflowTask {
    fn rows(&self, fibre: &Fibre, device: &Device) -> fndm_train::Result<Tensor> {
        let mut last = self.last.borrow_mut();
        let all = match last.take() {
            Some((batch, all)) if batch == fibre.batch => all,
            _ => {
                let slices = self.healthy.gather(&fibre.images, device)?;
                let maps = self.extractor.maps(&slices);
                let maps = maps.map_err(|e| for_trainer(e.into()))?;
                maps.iter()
                    .map(super::rows)
                    .collect::<crate::Result<Vec<_>>>()
                    .map_err(for_trainer)?
            }
        };
        let rows = all.get(fibre.layer).cloned();
        *last = Some((fibre.batch, all));
        rows.ok_or_else(|| fndm_train::Error::Data {
            expected: format!("a map for layer {}", fibre.layer),
            got: "fewer maps".to_owned(),
        })
    }
}

impl Task for CflowTask {
    type Network = CflowNetwork;
    type Config = LoopConfig;
    type Model = CflowModel;
    type Batch = Fibre;

    fn setup(&self) -> Setup<LoopConfig, CflowModel> {
        Setup::new(
            "cflow",
            self.common.clone(),
            self.model.clone(),
            self.common.clone(),
            self.healthy.fingerprint(),
        )
    }

    fn network(&self, vb: VarBuilder<'_>) -> fndm_train::Result<CflowNetwork> {
        let source = Source {
            fixed: fixed_builder(&self.fixed, vb.device()),
            trained: vb,
        };
        CflowNetwork::new(&self.model, &source).map_err(for_trainer)
    }

    fn batches(&self, _: u64) -> fndm_train::Result<Draw<Fibre>> {
        Ok(self.fibres.clone().draw())
    }

    fn loss(
        &self,
        network: &CflowNetwork,
        fibre: Fibre,
        device: &Device,
        _: Option<u64>,
    ) -> fndm_train::Result<Loss> {
        let all = self.rows(&fibre, device)?;
        let at: Vec<u32> = fibre.rows.iter().map(|&row| row as u32).collect();
        let at = Tensor::new(at, device)?;
        let flowed = network
            .forward_rows(fibre.layer, &all.index_select(&at, 0)?, &at)
            .map_err(for_trainer)?;
        Loss::mean(&loss(&flowed).map_err(for_trainer)?)
    }

    fn names(&self, samples: &[usize]) -> Vec<String> {
        let mut samples = samples.to_vec();
        samples.sort_unstable();
        samples.dedup();
        self.healthy.names(&samples)
    }
}
