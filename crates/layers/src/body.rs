//! A graph whose every node a device runs, planned: as a whole, or node by node on a device that plans single operators.

use std::sync::Arc;

use qiao_core::{Binding, Device, Graph, Plan, PlanInfo, Result, Stream};

use crate::steps::Steps;

pub(crate) enum Body {
    Whole(Arc<dyn Plan>),
    Steps(Steps),
}

impl Body {
    /// Plans a graph.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn new(device: &dyn Device, graph: &Graph) -> Result<Body> {
        Ok(match device.info().caps.multi_op {
            true => Body::Whole(device.plan(graph)?),
            false => Body::Steps(Steps::new(device, graph)?),
        })
    }

    pub(crate) fn info(&self) -> PlanInfo {
        match self {
            Body::Whole(plan) => plan.info(),
            Body::Steps(steps) => steps.info(),
        }
    }

    /// Runs it. Bindings and workspace were checked by the caller.
    pub(crate) fn run(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        match self {
            Body::Whole(plan) => plan.execute(stream, bindings, workspace),
            Body::Steps(steps) => steps
                .run(stream, bindings, workspace, |_, plan, stream, own, scratch| plan.execute(stream, own, scratch)),
        }
    }
}
