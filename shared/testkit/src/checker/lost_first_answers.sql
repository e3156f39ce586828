-- Counts moves whose first answer, the one with the time of the move before, is not among the
-- timestamps $1. Answers show seconds, so moves and answers are counted per second.
select coalesce(sum(greatest(moves - coalesce(answers, 0), 0)), 0)::bigint
from (
    select coalesce(to_char(previous_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS'), '') as second,
           count(*) as moves
    from audit.moves group by 1
) as moved
left join (
    select second, count(*) as answers from unnest($1::text[]) as second group by 1
) as received using (second)
