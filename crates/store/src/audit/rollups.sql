-- rollup_differences
-- $1, $2: the range of quarter-hours, half-open, edges at midnights of UTC; $3: the most rows
with posted as materialized (
    select p.quarter, p.series, p.rate_set,
        sum(p.requests) as requests,
        sum(p.input_uncached_tokens) as input_uncached_tokens,
        sum(p.input_cache_read_tokens) as input_cache_read_tokens,
        sum(p.input_cache_write_tokens) as input_cache_write_tokens,
        sum(p.input_cache_write_1h_tokens) as input_cache_write_1h_tokens,
        sum(p.input_audio_tokens) as input_audio_tokens,
        sum(p.output_text_tokens) as output_text_tokens,
        sum(p.output_reasoning_tokens) as output_reasoning_tokens,
        sum(p.output_audio_tokens) as output_audio_tokens,
        sum(p.images) as images,
        sum(p.failed_requests) as failed_requests,
        sum(p.unmeasured_requests) as unmeasured_requests,
        sum(p.priced_requests) as priced_requests,
        sum(p.unpriced_requests) as unpriced_requests,
        case when sum(p.unpriced_requests) > 0 and sum(p.priced_requests) = 0 then null
            else coalesce(sum(p.amount), 0) end as amount
    from posting p
    join rollup_mark m on m.chain = p.chain and p.part <= m.part
    where p.quarter >= $1 and p.quarter < $2
    group by p.quarter, p.series, p.rate_set
), posted_day as (
    select date_trunc('day', p.quarter, 'UTC') as day, p.series, p.rate_set,
        sum(p.requests) as requests,
        sum(p.input_uncached_tokens) as input_uncached_tokens,
        sum(p.input_cache_read_tokens) as input_cache_read_tokens,
        sum(p.input_cache_write_tokens) as input_cache_write_tokens,
        sum(p.input_cache_write_1h_tokens) as input_cache_write_1h_tokens,
        sum(p.input_audio_tokens) as input_audio_tokens,
        sum(p.output_text_tokens) as output_text_tokens,
        sum(p.output_reasoning_tokens) as output_reasoning_tokens,
        sum(p.output_audio_tokens) as output_audio_tokens,
        sum(p.images) as images,
        sum(p.failed_requests) as failed_requests,
        sum(p.unmeasured_requests) as unmeasured_requests,
        sum(p.priced_requests) as priced_requests,
        sum(p.unpriced_requests) as unpriced_requests,
        case when sum(p.unpriced_requests) > 0 and sum(p.priced_requests) = 0 then null
            else coalesce(sum(p.amount), 0) end as amount
    from posted p
    -- Other days have no rows by day.
    where date_trunc('day', p.quarter, 'UTC') in (select day from rolled_day)
    group by day, p.series, p.rate_set
), differing as (
    select 'quarter' as grain, coalesce(p.quarter, r.quarter) as start,
        coalesce(p.series, r.series) as series, coalesce(p.rate_set, r.rate_set) as rate_set, v.*
    from posted p
    full join (select * from rollup_quarter where quarter >= $1 and quarter < $2) r
        on r.quarter = p.quarter and r.series = p.series and r.rate_set = p.rate_set
    cross join lateral (values
        ('requests', p.requests, r.requests),
        ('input_uncached_tokens', p.input_uncached_tokens, r.input_uncached_tokens),
        ('input_cache_read_tokens', p.input_cache_read_tokens, r.input_cache_read_tokens),
        ('input_cache_write_tokens', p.input_cache_write_tokens, r.input_cache_write_tokens),
        ('input_cache_write_1h_tokens', p.input_cache_write_1h_tokens, r.input_cache_write_1h_tokens),
        ('input_audio_tokens', p.input_audio_tokens, r.input_audio_tokens),
        ('output_text_tokens', p.output_text_tokens, r.output_text_tokens),
        ('output_reasoning_tokens', p.output_reasoning_tokens, r.output_reasoning_tokens),
        ('output_audio_tokens', p.output_audio_tokens, r.output_audio_tokens),
        ('images', p.images, r.images),
        ('failed_requests', p.failed_requests, r.failed_requests),
        ('unmeasured_requests', p.unmeasured_requests, r.unmeasured_requests),
        ('priced_requests', p.priced_requests, r.priced_requests),
        ('unpriced_requests', p.unpriced_requests, r.unpriced_requests),
        ('amount', p.amount, r.amount)
    ) as v (name, posted, rolled_up)
    where v.posted is distinct from v.rolled_up
    union all
    select 'day', coalesce(p.day, r.day), coalesce(p.series, r.series),
        coalesce(p.rate_set, r.rate_set), v.*
    from posted_day p
    full join (select * from rollup_day where day >= $1 and day < $2) r
        on r.day = p.day and r.series = p.series and r.rate_set = p.rate_set
    cross join lateral (values
        ('requests', p.requests, r.requests),
        ('input_uncached_tokens', p.input_uncached_tokens, r.input_uncached_tokens),
        ('input_cache_read_tokens', p.input_cache_read_tokens, r.input_cache_read_tokens),
        ('input_cache_write_tokens', p.input_cache_write_tokens, r.input_cache_write_tokens),
        ('input_cache_write_1h_tokens', p.input_cache_write_1h_tokens, r.input_cache_write_1h_tokens),
        ('input_audio_tokens', p.input_audio_tokens, r.input_audio_tokens),
        ('output_text_tokens', p.output_text_tokens, r.output_text_tokens),
        ('output_reasoning_tokens', p.output_reasoning_tokens, r.output_reasoning_tokens),
        ('output_audio_tokens', p.output_audio_tokens, r.output_audio_tokens),
        ('images', p.images, r.images),
        ('failed_requests', p.failed_requests, r.failed_requests),
        ('unmeasured_requests', p.unmeasured_requests, r.unmeasured_requests),
        ('priced_requests', p.priced_requests, r.priced_requests),
        ('unpriced_requests', p.unpriced_requests, r.unpriced_requests),
        ('amount', p.amount, r.amount)
    ) as v (name, posted, rolled_up)
    where v.posted is distinct from v.rolled_up
)
select d.grain as "grain!", d.start as "start!", d.series as "series!", d.rate_set as "rate_set!",
    coalesce(s.tenant, '') as "tenant!", coalesce(s.app, '') as "app!",
    coalesce(s.model, '') as "model!", d.name as "name!", coalesce(d.posted::text, 'none') as "posted!",
    coalesce(d.rolled_up::text, 'none') as "rolled_up!"
from differing d
left join series s on s.key = d.series
order by d.grain desc, d.start, d.series, d.rate_set, d.name
limit $3
