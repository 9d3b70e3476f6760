//! Webhooks: signed, sent, sent again until somebody says 2xx.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;

use super::Sim;
use super::events::{Attempt, Delivery, DeliveryState};
use super::faults::chance;
use super::state::{State, clock};

/// Somebody who wants to hear of events.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) id: String,
    pub(super) url: String,
    pub(super) secret: String,
}

/// A delivery that shall leave after a wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    event: usize,
    delivery: usize,
    /// 0 for the first.
    attempt: u32,
    wait: Duration,
}

/// The `WorkOS-Signature` of a body: `t=<unix milliseconds>, v1=<hex HMAC-SHA256 of "{t}.{body}">`.
pub fn sign(secret: &str, milliseconds: i64, body: &[u8]) -> anyhow::Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).context("failed to use the secret")?;
    mac.update(format!("{milliseconds}.").as_bytes());
    mac.update(body);
    Ok(format!("t={milliseconds}, v1={}", hex::encode(mac.finalize().into_bytes())))
}

impl State {
    /// Sends the webhooks of a new event, as well as the knobs allow.
    pub(super) fn send_webhooks(&mut self, event: usize) {
        let on_events_api = self.log.record(event).is_some_and(|record| record.event.on_events_api);
        let may_lose = on_events_api || self.knobs.lose_on_both;
        let endpoints: Vec<String> = self.endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
        for endpoint in endpoints {
            if !self.knobs.auto_deliver {
                self.note_delivery(event, endpoint, DeliveryState::Held);
                continue;
            }
            if chance(self.knobs.lost_webhook, &mut self.rng) && may_lose {
                self.note_delivery(event, endpoint, DeliveryState::Lost);
                continue;
            }
            let mut wait = 0;
            if chance(self.knobs.delay, &mut self.rng) {
                let (least, most) = self.knobs.delay_ms;
                wait += self.rng.u64(least..=most.max(least));
            }
            if chance(self.knobs.reorder, &mut self.rng) {
                wait += self.rng.u64(0..=self.knobs.reorder_ms);
            }
            self.send(event, endpoint.clone(), wait);
            if chance(self.knobs.duplicate, &mut self.rng) {
                let later = self.rng.u64(0..=self.knobs.duplicate_ms);
                self.send(event, endpoint, wait + later);
            }
        }
    }

    /// Sends an event to every endpoint once more.
    pub(super) fn send_again(&mut self, event: usize) {
        let endpoints: Vec<String> = self.endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
        for endpoint in endpoints {
            self.send(event, endpoint, 0);
        }
    }

    /// Sends what is held, oldest first.
    pub(super) fn release_held(&mut self) {
        for event in 0..self.log.records().len() {
            let deliveries = self.log.record(event).map_or(0, |record| record.event.deliveries.len());
            for delivery in 0..deliveries {
                if self.delivery(event, delivery).is_some_and(|d| d.state == DeliveryState::Held) {
                    self.settle(event, delivery, DeliveryState::Pending);
                    self.queue(Job { event, delivery, attempt: 0, wait: Duration::ZERO });
                }
            }
        }
    }

    fn send(&mut self, event: usize, endpoint: String, wait_ms: u64) {
        let delivery = self.note_delivery(event, endpoint, DeliveryState::Pending);
        self.queue(Job { event, delivery, attempt: 0, wait: Duration::from_millis(wait_ms) });
    }

    fn queue(&mut self, job: Job) {
        self.pending += 1;
        if self.queue.send(job).is_err() {
            // Stopped: nothing leaves any more.
            self.pending -= 1;
        }
    }

    fn note_delivery(&mut self, event: usize, endpoint: String, state: DeliveryState) -> usize {
        let Some(record) = self.log.record_mut(event) else { return 0 };
        record.event.deliveries.push(Delivery { endpoint, state, attempts: Vec::new() });
        record.event.deliveries.len() - 1
    }

    fn delivery(&self, event: usize, delivery: usize) -> Option<&Delivery> {
        self.log.record(event)?.event.deliveries.get(delivery)
    }

    fn settle(&mut self, event: usize, delivery: usize, state: DeliveryState) {
        if let Some(delivery) =
            self.log.record_mut(event).and_then(|record| record.event.deliveries.get_mut(delivery))
        {
            delivery.state = state;
        }
    }

    fn note_attempt(&mut self, event: usize, delivery: usize, attempt: Attempt) {
        if let Some(delivery) =
            self.log.record_mut(event).and_then(|record| record.event.deliveries.get_mut(delivery))
        {
            delivery.attempts.push(attempt);
        }
    }

    /// What is needed to send a delivery; none when its endpoint was removed.
    fn letter(&self, event: usize, delivery: usize) -> Option<Letter> {
        let record = self.log.record(event)?;
        let endpoint = &record.event.deliveries.get(delivery)?.endpoint;
        let endpoint = self.endpoints.iter().find(|known| known.id == *endpoint)?;
        Some(Letter {
            url: endpoint.url.clone(),
            secret: endpoint.secret.clone(),
            body: record.wire.clone(),
            timeout: Duration::from_millis(self.knobs.webhook_timeout_ms),
        })
    }

    /// What comes after an attempt with this answer: another job, or the end of the delivery.
    fn after(&mut self, job: Job, delivered: bool) -> Option<Job> {
        self.pending -= 1;
        let has_endpoint = self.letter(job.event, job.delivery).is_some();
        if !delivered && has_endpoint && job.attempt < self.knobs.retries {
            let doubled = self.knobs.retry_base_ms.saturating_mul(1 << job.attempt.min(20));
            return Some(Job { attempt: job.attempt + 1, wait: Duration::from_millis(doubled), ..job });
        }
        let state = if delivered { DeliveryState::Delivered } else { DeliveryState::GivenUp };
        self.settle(job.event, job.delivery, state);
        None
    }
}

/// One request to an endpoint.
struct Letter {
    url: String,
    secret: String,
    body: Bytes,
    timeout: Duration,
}

/// Sends deliveries in the order in which their wait is over, so many at once.
pub(super) async fn dispatch(sim: Sim, mut jobs: UnboundedReceiver<Job>, at_once: usize) {
    let permits = Arc::new(Semaphore::new(at_once.max(1)));
    while let Some(job) = jobs.recv().await {
        if !job.wait.is_zero() {
            let sim = sim.clone();
            sim.spawn({
                let sim = sim.clone();
                async move {
                    tokio::time::sleep(job.wait).await;
                    // Counted as pending all the while.
                    let _ = sim.state().queue.send(Job { wait: Duration::ZERO, ..job });
                }
            });
            continue;
        }
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        sim.spawn({
            let sim = sim.clone();
            async move {
                let delivered = attempt(&sim, job.event, job.delivery).await.is_some_and(is_success);
                drop(permit);
                let mut state = sim.state();
                if let Some(next) = state.after(job, delivered) {
                    state.queue(next);
                }
            }
        });
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Sends a delivery once, with a fresh time in its signature. The status, if an answer came.
async fn attempt(sim: &Sim, event: usize, delivery: usize) -> Option<u16> {
    let letter = sim.state().letter(event, delivery)?;
    let at = clock();
    let status = post(sim, letter, at.timestamp_millis()).await.ok();
    sim.state().note_attempt(event, delivery, Attempt { at, status });
    status
}

async fn post(sim: &Sim, letter: Letter, milliseconds: i64) -> anyhow::Result<u16> {
    let signature = sign(&letter.secret, milliseconds, &letter.body)?;
    let response = sim
        .client()
        .post(&letter.url)
        .header("content-type", "application/json")
        .header("user-agent", "WorkOS Webhooks")
        .header("workos-signature", signature)
        .timeout(letter.timeout)
        .body(letter.body)
        .send()
        .await?;
    let status = response.status().as_u16();
    // Read to the end, so that the connection can be used again.
    let _ = response.bytes().await;
    Ok(status)
}

/// Sends an event to every endpoint now, one attempt each, by hand. The statuses, in the order of the
/// endpoints; 0 where no answer came.
pub(super) async fn post_by_hand(sim: &Sim, event_id: &str) -> anyhow::Result<Vec<u16>> {
    let (event, deliveries) = {
        let mut state = sim.state();
        let event = state.log.index(event_id).with_context(|| format!("there is no event {event_id}"))?;
        let endpoints: Vec<String> = state.endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
        let mut deliveries = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let held = state.log.record(event).and_then(|record| {
                record
                    .event
                    .deliveries
                    .iter()
                    .position(|known| known.endpoint == endpoint && known.state == DeliveryState::Held)
            });
            deliveries
                .push(held.unwrap_or_else(|| state.note_delivery(event, endpoint, DeliveryState::Held)));
        }
        (event, deliveries)
    };
    let mut statuses = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let status = attempt(sim, event, delivery).await.unwrap_or(0);
        if is_success(status) {
            sim.state().settle(event, delivery, DeliveryState::Delivered);
        }
        statuses.push(status);
    }
    Ok(statuses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_hmac_of_time_dot_body() {
        let header = sign("whsec_1", 1_760_000_000_123, br#"{"id":"event_1"}"#).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(b"whsec_1").unwrap();
        mac.update(br#"1760000000123.{"id":"event_1"}"#);
        let hex = hex::encode(mac.finalize().into_bytes());
        assert_eq!(header, format!("t=1760000000123, v1={hex}"));
        assert!(hex.len() == 64 && hex.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()));
    }

    #[test]
    fn the_vendors_own_verifier_accepts_what_we_sign() {
        let body = r#"{"object":"event","id":"event_1","event":"user.created","data":{},"created_at":"2026-01-15T12:00:00.000Z"}"#;
        let now = shared::clock::now().timestamp_millis();
        let header = sign("whsec_1", now, body.as_bytes()).unwrap();
        assert!(workos::WebhookVerifier::new("whsec_1").construct_event(&header, body).is_ok());
        assert!(workos::WebhookVerifier::new("whsec_2").construct_event(&header, body).is_err());
    }
}
