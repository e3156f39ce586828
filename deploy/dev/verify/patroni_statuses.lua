-- For wrk: counts answers, refusals, and whatever is neither. At the end it prints the three numbers.

answered, refused, other = 0, 0, 0
local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function response(status, headers, body)
   if status == 200 and body:find('^{"users":%[') then
      answered = answered + 1
   -- By a replica, and not by a load balancer that finds none.
   elseif status == 503 and headers["content-type"] == "application/problem+json" then
      refused = refused + 1
   else
      other = other + 1
   end
end

function done(summary)
   local errors = summary.errors
   local sum = {0, 0, errors.connect + errors.read + errors.write + errors.timeout}
   for _, thread in ipairs(threads) do
      for place, count in ipairs({"answered", "refused", "other"}) do
         sum[place] = sum[place] + thread:get(count)
      end
   end
   print(table.concat(sum, " "))
end
