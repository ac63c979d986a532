-- The days whose rows in rollup_day are whole, up to the marks. Usage of any other day is summed from
-- rollup_quarter; its rows by day are made when the day is over.
create table rolled_day (
    day timestamptz primary key                  -- midnight of UTC
);
-- Until now each run kept every day whole.
insert into rolled_day (day) select distinct day from rollup_day;
