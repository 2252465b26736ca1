//! Reverse Distillation (Deng and Li 2022).
