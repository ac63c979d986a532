//! What is asked, and what is reported.
//!
//! Invariant: what somebody does not say stays unknown; nothing is guessed from it but sums of parts
//! that are all there is. Deliberately absent: how either was written.

use domain::decision::Asked;
use domain::limit::{Estimate, MeterSelector};
use domain::meter::{Meter, PerMeter, Quantities};
use domain::money::Amount;
use domain::policy::model::Limit;
use domain::request::Request;
use domain::units::Units;

/// May this request go?
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// The request.
    pub request: Request<'a>,
    /// What it will use, as far as the client says.
    pub estimate: Estimated,
    /// What could serve it, best first; the first that may is chosen. None: the request as it is.
    pub candidates: &'a [Candidate<'a>],
}

/// What a request will use, as far as the client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Estimated {
    /// Input tokens of all kinds.
    pub input_tokens: Option<u64>,
    /// Output tokens of all kinds.
    pub output_tokens: Option<u64>,
    /// What they cost.
    pub cost: Option<Amount>,
}

/// One model, provider or instance that could serve a request; what is absent is the request's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Candidate<'a> {
    /// The model.
    pub model: Option<&'a str>,
    /// The provider.
    pub provider: Option<&'a str>,
    /// The gateway's name for a backend; stands for the provider where none is named.
    pub instance: Option<&'a str>,
}

/// This was used.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The request that used it.
    pub request: Request<'a>,
    /// What it used.
    pub used: Reported,
}

/// What a request used, as far as the gateway says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reported {
    /// Standard meters.
    pub quantities: PerMeter<Option<u64>>,
    /// All input tokens; the sum of the kinds where absent.
    pub input_tokens: Option<u64>,
    /// All output tokens; the sum of the kinds where absent.
    pub output_tokens: Option<u64>,
    /// All tokens; the sum of both where absent.
    pub total_tokens: Option<u64>,
    /// What it cost. Where absent, limits of cost are not charged.
    pub cost: Option<Amount>,
}

impl<'a> Ask<'a> {
    /// Returns the request as one candidate would serve it.
    #[must_use]
    pub fn of(&self, candidate: Option<usize>) -> Request<'a> {
        let Some(candidate) = candidate.and_then(|index| self.candidates.get(index)) else {
            return self.request;
        };
        Request {
            model: candidate.model.or(self.request.model),
            provider: candidate
                .provider
                .or(candidate.instance)
                .or(self.request.provider),
            ..self.request
        }
    }
}

/// Says whether asks charge this limit. A report charges its requests only where it names a number.
pub(super) fn is_charged_by_asks(limit: &Limit) -> bool {
    super::counts_asks(limit.spec.meter())
        && limit.amount.as_ref().is_none_or(|cel| !cel.reads_usage())
}

/// Returns what an ask asks of a limit, and what it charges where it is admitted: requests and
/// expressions over them; all else is charged by reports, or by the log.
pub(super) fn asked_and_charged(
    limit: &Limit,
    request: &Request<'_>,
    estimate: &Estimated,
) -> (Asked, Units) {
    let computed = computed(limit, request, estimate);
    let asked = limit.spec.meter().asked(&Estimate {
        input_tokens: estimate.input_tokens,
        output_tokens: estimate.output_tokens,
        cost: estimate.cost,
        computed,
    });
    let is_charged = match limit.from {
        domain::policy::model::CountedFrom::Decision => is_charged_by_asks(limit),
        domain::policy::model::CountedFrom::Log => false,
    };
    let charge = match asked {
        Asked::Units(units) if is_charged => units,
        Asked::Units(_) | Asked::Unknown => Units::ZERO,
    };
    (asked, charge)
}

/// Returns what a limit's expression gives for a request; `None` where it has none or fails, or reads
/// usage of which nothing is estimated.
fn computed(limit: &Limit, request: &Request<'_>, estimate: &Estimated) -> Option<Units> {
    let cel = limit.amount.as_ref()?;
    let (input, output) = (estimate.input_tokens, estimate.output_tokens);
    if cel.reads_usage() && input.is_none() && output.is_none() {
        return None;
    }
    let mut used = Quantities::default();
    used.set(Meter::Requests, 1);
    used.set(Meter::InputUncachedTokens, input.unwrap_or_default());
    used.set(Meter::OutputTextTokens, output.unwrap_or_default());
    cel.amount(request, &used).ok().map(Units::from)
}

impl Report<'_> {
    /// Returns how much a limit is charged; `None` where the report does not say.
    pub(super) fn units(&self, limit: &Limit) -> Option<Units> {
        match &limit.amount {
            None => self.used.units(limit.spec.meter()),
            Some(cel) if cel.reads_usage() => {
                let used = self.used.split()?;
                cel.amount(&self.request, &used).ok().map(Units::from)
            }
            Some(_) => None,
        }
    }
}

impl Reported {
    /// Says what is contradictory: a total that is not the sum of what it is made of.
    ///
    /// # Errors
    ///
    /// The name of the total; the gateway should send what agrees, or less.
    pub fn check(&self) -> Result<(), &'static str> {
        for (name, total, parts) in [
            ("input_tokens", self.input_tokens, self.sum(Meter::is_input)),
            (
                "output_tokens",
                self.output_tokens,
                self.sum(Meter::is_output),
            ),
        ] {
            if total.zip(parts).is_some_and(|(total, parts)| total < parts) {
                return Err(name);
            }
        }
        let both = self.input().zip(self.output());
        let sum = both.map(|(input, output)| input.saturating_add(output));
        match (self.total_tokens, sum) {
            (Some(total), Some(sum)) if total != sum => Err("total_tokens"),
            _ => Ok(()),
        }
    }

    fn units(&self, meter: MeterSelector) -> Option<Units> {
        let units = match meter {
            MeterSelector::Standard(meter) => self.quantities.get(meter),
            MeterSelector::InputTokens => self.input(),
            MeterSelector::OutputTokens => self.output(),
            MeterSelector::TotalTokens => self.total(),
            MeterSelector::Cost => return self.cost.map(Units::from),
            MeterSelector::Computed => None,
        };
        units.map(Units::from)
    }

    fn input(&self) -> Option<u64> {
        self.input_tokens.or_else(|| self.sum(Meter::is_input))
    }

    fn output(&self) -> Option<u64> {
        self.output_tokens.or_else(|| self.sum(Meter::is_output))
    }

    fn total(&self) -> Option<u64> {
        let parts = [self.input(), self.output()];
        let sum = parts.into_iter().flatten().reduce(u64::saturating_add);
        self.total_tokens.or(sum)
    }

    fn sum(&self, is_part: impl Fn(Meter) -> bool) -> Option<u64> {
        let parts = self.quantities.iter().filter(|(meter, _)| is_part(*meter));
        let known = parts.filter_map(|(_, quantity)| quantity);
        known.reduce(u64::saturating_add)
    }

    /// Returns standard meters for an expression: tokens of which no kind is named count as uncached
    /// input and as text. `None` where only a total is known, which cannot be split.
    fn split(&self) -> Option<Quantities> {
        if self.total_tokens.is_some() && self.input().is_none() && self.output().is_none() {
            return None;
        }
        let mut used = Quantities::from_fn(|meter| self.quantities.get(meter).unwrap_or_default());
        let rest = |total: Option<u64>, parts: Option<u64>| {
            total
                .unwrap_or_default()
                .saturating_sub(parts.unwrap_or_default())
        };
        for (meter, rest) in [
            (
                Meter::InputUncachedTokens,
                rest(self.input_tokens, self.sum(Meter::is_input)),
            ),
            (
                Meter::OutputTextTokens,
                rest(self.output_tokens, self.sum(Meter::is_output)),
            ),
        ] {
            used.set(meter, used.get(meter).saturating_add(rest));
        }
        Some(used)
    }
}
