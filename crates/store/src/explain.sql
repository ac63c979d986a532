-- What the ledger holds of each series of a tenant in a span of quarter-hours: as of now, and of that
-- what is in the parts after those that somebody knew. One statement, so one snapshot.
-- $1: tenant; $2: app, or null for all; $3, $4: the span, half-open; $5, $6: chains and the last part of
-- each that was known
with wanted as (
    select key from series where tenant = $1 and ($2::text is null or app = $2)
),
used as (
    select false as is_since, q.series, q.rate_set, q.requests, q.input_uncached_tokens,
        q.input_cache_read_tokens, q.input_cache_write_tokens, q.input_cache_write_1h_tokens,
        q.input_audio_tokens, q.output_text_tokens, q.output_reasoning_tokens,
        q.output_audio_tokens, q.images, q.amount
    from rollup_quarter q join wanted w on w.key = q.series
    where q.quarter >= $3 and q.quarter < $4
    union all
    -- As in cost.sql: by the index, whatever Postgres takes to lie after a part.
    select p.*
    from (
        select false as is_since, c.id as chain, coalesce(m.part, 0) as part
        from chain c left join rollup_mark m on m.chain = c.id
        union all
        select true, chain, part from unnest($5::integer[], $6::bigint[]) as known (chain, part)
    ) after
    cross join lateral (
        select after.is_since, series, rate_set, requests, input_uncached_tokens,
            input_cache_read_tokens, input_cache_write_tokens, input_cache_write_1h_tokens,
            input_audio_tokens, output_text_tokens, output_reasoning_tokens, output_audio_tokens,
            images, amount
        from posting
        where chain = after.chain and part > after.part and part <= 9223372036854775807
            and quarter >= $3 and quarter < $4
        offset 0
    ) p
    join wanted w on w.key = p.series
)
select u.is_since as "is_since!", s.tenant, s.app, s.user_id, s.session, s.route, s.provider, s.model,
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
from used u
join series s on s.key = u.series
join rate_set r on r.key = u.rate_set
group by u.is_since, s.key
