//! Events: the order of identities, the rule of age, ids, instants and quarter-hours.

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_assert_ne, proptest};

use crate::event::{AgeRule, Identity, IdentityKey, IdentitySecret, LogIdentity, ProducerIdentity};
use crate::ids::{AppId, IdError};
use crate::reject::{Reason, Rejection};
use crate::time::{DAY_MS, QUARTER_MS, Quarter, UnixMs};

fn instants() -> impl Strategy<Value = UnixMs> {
    (0_i64..253_402_300_800_000).prop_map(|ms| UnixMs::new(ms).unwrap())
}

fn identity(start: UnixMs, request_id: &str) -> Identity {
    let content = request_id.as_bytes();
    let parts = LogIdentity {
        tenant: "t",
        request_id,
        start,
        content,
    };
    Identity::of_log_line(&key("s", 1), &parts)
}

fn key(source: &str, secret: u8) -> IdentityKey {
    IdentityKey::of_source(IdentitySecret::from_bytes([secret; 32]), source)
}

proptest! {
    #[test]
    fn identities_ascend_by_time_and_keep_it(
        one in instants(),
        other in instants(),
        ids in any::<[String; 2]>(),
    ) {
        let [first, second] = [identity(one, &ids[0]), identity(other, &ids[1])];
        prop_assert_eq!(first.start(), one);
        prop_assert_eq!(Identity::from_bits(first.to_bits()), first);
        if one != other {
            prop_assert_eq!(first.cmp(&second), one.cmp(&other));
        }
        prop_assert!(Identity::first_at(one) <= first, "the least of its instant");
        let next = one.saturating_add_ms(1);
        prop_assert!(next == one || first < Identity::first_at(next), "below the next instant");
    }

    #[test]
    fn every_field_of_a_log_line_is_part_of_its_identity(
        texts in any::<[String; 3]>(),
        start in instants(),
        content in any::<Vec<u8>>(),
        change in 0_usize..7,
    ) {
        let (mut changed, mut changed_start) = (texts.clone(), start);
        let (mut changed_content, mut changed_secret) = (content.clone(), 1);
        match change {
            3 => changed_start = UnixMs::new(start.get() ^ 1).unwrap(),
            4 => changed_content.push(0),
            5 => changed_secret = 2,
            // The same bytes in a row, cut elsewhere.
            6 => {
                let [_, tenant, request_id] = &mut changed;
                tenant.push('x');
                std::mem::swap(tenant, request_id);
            }
            field => changed[field].push('x'),
        }
        let of = |texts: &[String; 3], start, content: &[u8], secret| {
            let [source, tenant, request_id] = texts;
            let parts = LogIdentity { tenant, request_id, start, content };
            Identity::of_log_line(&key(source, secret), &parts)
        };
        let unchanged = of(&texts, start, &content, 1);
        prop_assert_eq!(of(&texts, start, &content, 1), unchanged);
        prop_assert_ne!(
            of(&changed, changed_start, &changed_content, changed_secret),
            unchanged
        );
    }

    #[test]
    fn an_instant_lies_in_one_quarter_hour(at in instants()) {
        let start = at.quarter().start();
        prop_assert!(start <= at && at.get() < start.get() + QUARTER_MS);
        prop_assert_eq!(start.get() % QUARTER_MS, 0);
        prop_assert_eq!(Quarter::starting_at(start), Some(at.quarter()));
        prop_assert_eq!(Quarter::starting_at(at).is_some(), at == start);
    }

    #[test]
    fn an_instant_is_written_so_that_it_reads_back(at in instants()) {
        let text = at.to_string();
        let read = chrono::DateTime::parse_from_rfc3339(&text).unwrap();
        prop_assert_eq!(UnixMs::from_utc(read.to_utc()), Some(at), "{}", text);
        prop_assert_eq!(UnixMs::from_utc(at.to_utc()), Some(at));
    }

    #[test]
    fn any_text_is_an_id_as_it_is_or_says_why_not(text in "\\PC{0,300}|[\0a]{0,3}|a{250,260}") {
        let expected = if text.is_empty() {
            Err(IdError::Empty)
        } else if text.len() > 256 {
            Err(IdError::TooLong(text.len()))
        } else if text.contains('\0') {
            Err(IdError::Nul)
        } else {
            Ok(text.clone())
        };
        prop_assert_eq!(AppId::new(text).map(|id| id.as_str().to_owned()), expected);
    }

    #[test]
    fn a_rejection_keeps_what_the_store_takes(field in ".{0,300}", detail in "(\\PC|\0){0,600}") {
        let rejection = Rejection::new(Reason::BadId, &field, detail.clone());
        for (kept, given, bytes_max) in [(rejection.field, field, 256), (rejection.detail, detail, 500)] {
            prop_assert!(kept.len() <= bytes_max && !kept.contains('\0'));
            let given = given.replace('\0', "\u{fffd}");
            prop_assert!(given.starts_with(&kept), "cut at its end only");
            prop_assert!(kept.len() + 4 > bytes_max || kept == given, "cut only where it must be");
        }
    }
}

#[test]
fn instants_lie_in_the_years_1970_to_9999() {
    let last = 253_402_300_799_999;
    for (ms, expected) in [(-1, false), (0, true), (last, true), (last + 1, false)] {
        assert_eq!(UnixMs::new(ms).is_some(), expected, "{ms}");
    }
    let end = UnixMs::new(last).unwrap();
    assert_eq!(
        end.to_string(),
        "9999-12-31T23:59:59.999Z",
        "the last instant"
    );
    assert_eq!(end.saturating_add_ms(1), end, "nothing later");
    assert_eq!(
        UnixMs::FIRST.saturating_add_ms(i64::MIN),
        UnixMs::FIRST,
        "nothing earlier"
    );
    assert_eq!(
        UnixMs::FIRST.to_string(),
        "1970-01-01T00:00:00Z",
        "the first instant"
    );
}

#[test]
fn age_is_measured_from_the_record_and_the_floor() {
    let ms = |ms| UnixMs::new(ms).unwrap();
    let record = 100 * DAY_MS;
    let ahead = record + 300_000;
    let oldest = record - 3 * DAY_MS;
    // Start, floor, verdict.
    let cases = [
        (record, None, None),
        (ahead, None, None),
        (ahead + 1, None, Some(Reason::TooFarAhead)),
        (oldest, None, None),
        (oldest - 1, None, Some(Reason::TooOld)),
        (0, None, Some(Reason::TooOld)),
        (record - 10, Some(record - 10), None),
        (record - 11, Some(record - 10), Some(Reason::BelowFloor)),
        (oldest - 1, Some(record), Some(Reason::TooOld)),
        (ahead + 1, Some(ahead + 2), Some(Reason::TooFarAhead)),
        (oldest, Some(oldest - 5), None),
    ];
    for (start, floor, expected) in cases {
        let rule = AgeRule {
            window_ms: AgeRule::LOG_WINDOW_MS,
            floor: floor.map(ms),
        };
        let verdict = rule.check(ms(start), ms(record), "start_time").err();
        if let Some(rejection) = &verdict {
            assert_eq!(rejection.field, "start_time", "the field at fault");
        }
        let reason = verdict.map(|rejection| rejection.reason);
        assert_eq!(reason, expected, "{start} under {floor:?}");
    }
    let rule = AgeRule {
        window_ms: AgeRule::LOG_WINDOW_MS,
        floor: None,
    };
    assert_eq!(
        rule.check(ms(0), ms(DAY_MS), ""),
        Ok(()),
        "a window that began before 1970"
    );
}

#[test]
fn an_identity_stays_what_was_stored() {
    let start = UnixMs::new(1_795_255_200_123).unwrap();
    let bits = format!("{:032x}", identity(start, "c43ee7e8").to_bits());
    assert_eq!(
        bits, "01a1fd8c697b275c4d8de93bf7701942",
        "ids that were taken must be found again"
    );
}

proptest! {
    #[test]
    fn every_field_of_a_producers_identity_is_part_of_it(
        texts in any::<[String; 4]>(),
        change in 0_usize..4,
    ) {
        let of = |texts: &[String; 4]| {
            let [tenant, source, producer, id] = texts;
            Identity::of_producer(&ProducerIdentity { tenant, source, producer, id })
        };
        let mut changed = texts.clone();
        changed[change].push('x');
        prop_assert_ne!(of(&texts), of(&changed));
        prop_assert_eq!(of(&texts), of(&texts));
    }

    #[test]
    fn ids_of_producers_lie_behind_all_of_log_lines(start in instants(), id in any::<String>()) {
        let parts = ProducerIdentity { tenant: "t", source: "s", producer: "p", id: &id };
        let owned = Identity::of_producer(&parts);
        prop_assert!(owned.is_of_producer());
        prop_assert!(!identity(start, &id).is_of_producer());
        prop_assert!(identity(start, &id) < owned);
    }
}

#[test]
fn ids_of_producers_are_kept_for_35_days_below_the_same_watermark() {
    let watermark = UnixMs::new(1_795_255_200_000).unwrap();
    let floor = watermark.saturating_add_ms(-AgeRule::LOG_WINDOW_MS);
    let rule = AgeRule::of_producers(Some(floor));
    let oldest = watermark.saturating_add_ms(-35 * DAY_MS);
    assert_eq!(
        rule.floor,
        Some(oldest),
        "the watermark less their own window"
    );
    assert_eq!(
        rule.check(oldest, watermark, "start"),
        Ok(()),
        "the edge is folded"
    );
    let older = oldest.saturating_add_ms(-1);
    let too_old = rule
        .check(older, watermark, "start")
        .map_err(|error| error.reason);
    assert_eq!(too_old, Err(Reason::TooOld));
    let below = rule
        .check(older, older, "start")
        .map_err(|error| error.reason);
    assert_eq!(
        below,
        Err(Reason::BelowFloor),
        "a late record of a re-created log"
    );
}

#[test]
fn a_producers_identity_stays_what_was_stored() {
    let parts = ProducerIdentity {
        tenant: "default",
        source: "usage",
        producer: "gateway-1",
        id: "c43ee7e8",
    };
    let bits = format!("{:032x}", Identity::of_producer(&parts).to_bits());
    assert_eq!(
        bits, "fa2edbb1bf0bdc08b571d4050d747ee7",
        "ids that were taken must be found again"
    );
}
