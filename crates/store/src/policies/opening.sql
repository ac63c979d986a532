-- What the ledger holds of each series in each of some slots, whose edges are quarter-hours:
-- quarter-hours up to each chain's mark, then postings. One statement, so one snapshot.
-- $1, $2: the slots' starts and ends
with slot as (
    select start, until from unnest($1::timestamptz[], $2::timestamptz[]) as s (start, until)
),
used as (
    select quarter, series, rate_set, requests, input_uncached_tokens, input_cache_read_tokens,
        input_cache_write_tokens, input_cache_write_1h_tokens, input_audio_tokens,
        output_text_tokens, output_reasoning_tokens, output_audio_tokens, images, amount
    from rollup_quarter
    where quarter >= (select min(start) from slot)
    union all
    select p.quarter, p.series, p.rate_set, p.requests, p.input_uncached_tokens,
        p.input_cache_read_tokens, p.input_cache_write_tokens, p.input_cache_write_1h_tokens,
        p.input_audio_tokens, p.output_text_tokens, p.output_reasoning_tokens,
        p.output_audio_tokens, p.images, p.amount
    from chain c
    left join rollup_mark m on m.chain = c.id
    join posting p on p.chain = c.id and p.part > coalesce(m.part, 0)
    where p.quarter >= (select min(start) from slot)
)
select slot.start as "start!", slot.until as "until!", s.tenant, s.app, s.user_id, s.session,
    s.route, s.provider, s.model,
    array[
        sum(u.requests), sum(u.input_uncached_tokens), sum(u.input_cache_read_tokens),
        sum(u.input_cache_write_tokens), sum(u.input_cache_write_1h_tokens),
        sum(u.input_audio_tokens), sum(u.output_text_tokens), sum(u.output_reasoning_tokens),
        sum(u.output_audio_tokens), sum(u.images)
    ]::text[] as "quantities!",
    trunc(coalesce(sum(u.amount), 0) * 1000000000000000000)::text as "amount!",
    -- Billable units without a rate: of all meters but requests.
    sum(
        case when r.input_uncached_tokens is null then u.input_uncached_tokens else 0 end
        + case when r.input_cache_read_tokens is null then u.input_cache_read_tokens else 0 end
        + case when r.input_cache_write_tokens is null then u.input_cache_write_tokens else 0 end
        + case when r.input_cache_write_1h_tokens is null
            then u.input_cache_write_1h_tokens else 0 end
        + case when r.input_audio_tokens is null then u.input_audio_tokens else 0 end
        + case when r.output_text_tokens is null then u.output_text_tokens else 0 end
        + case when r.output_reasoning_tokens is null then u.output_reasoning_tokens else 0 end
        + case when r.output_audio_tokens is null then u.output_audio_tokens else 0 end
        + case when r.images is null then u.images else 0 end
    )::text as "unpriced!"
from slot
join used u on u.quarter >= slot.start and u.quarter < slot.until
join series s on s.key = u.series
join rate_set r on r.key = u.rate_set
group by slot.start, slot.until, s.key
