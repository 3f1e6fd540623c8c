-- schedule.lua: candidates in order of predicted time; why each other schedule was refused.
--
-- To add a schedule: write gen/schedules/<name>.lua and templates/conv2d_<name>.cu.in, add <name> to `names` below, and
-- add tests. The module must have
--   parameters   { { name, least, most }, ... }: integers, in the order of the specification's text
--   applies(problem, target)               true, or false and the reason
--   candidates(problem, target)            a list of parameter tables worth considering, possibly empty
--   check(problem, target, parameters)     nil, or why these parameters cannot be
--   time(problem, target, parameters)      predicted microseconds, by cost.lua
--   least_us(problem, target)              optional, cheap: no candidate's time is below this
--   explain(problem, parameters)           one line for people; independent of N, H and W
--   launch(problem, target, parameters)    { template =, env =, requires =, workspace =, align =, launches = }
-- Everything but candidates, time, least_us and launch's expressions must be independent of N, H and W.

local strict = require "strict"

local schedule = {}

local min <const>, huge <const> = math.min, math.huge

local names <const> = { "depthwise", "depthwise_direct", "grouped", "few_channels", "gemm", "pointwise", "wgmma", "mma",
                        "direct" }

local modules = {}
for _, name in ipairs(names) do modules[name] = require("schedules." .. name) end

-- "direct:tk=8,..." with every parameter.
function schedule.format(name, parameters)
    local parts = {}
    for i, parameter in ipairs(modules[name].parameters) do
        parts[i] = parameter[1] .. "=" .. parameters[parameter[1]]
    end
    return name .. ":" .. table.concat(parts, ",")
end

local function invalid(...)
    error({ status = "invalid", message = string.format(...) })
end

-- Reads what format writes; the parameters may come in any order, but all must be there. Returns name and parameters;
-- parameters are nil if only a name was given.
function schedule.parse(text)
    local name, rest = string.match(text, "^([%w_]+):?(.*)$")
    if not name or not modules[name] then
        invalid("unknown schedule '%s'; known: %s", text, table.concat(names, " "))
    end
    if rest == "" then return name end
    local given = {}
    for part in string.gmatch(rest, "[^,]+") do
        local key, value = string.match(part, "^([%w_]+)=(%d+)$")
        if not key or #value > 9 then invalid("schedule %s: '%s' is not of the form parameter=number", name, part) end
        if given[key] then invalid("schedule %s: %s is given twice", name, key) end
        given[key] = math.tointeger(tonumber(value))
    end
    local parameters = {}
    for _, parameter in ipairs(modules[name].parameters) do
        local key, least, most = parameter[1], parameter[2], parameter[3]
        local value = given[key]
        if not value then invalid("schedule %s: parameter %s is missing", name, key) end
        if value < least or value > most then
            invalid("schedule %s: %s is %d; %d to %d", name, key, value, least, most)
        end
        parameters[key], given[key] = value, nil
    end
    for key in strict.sorted(given) do invalid("schedule %s has no parameter '%s'", name, key) end
    return name, parameters
end

-- Adds a candidate to `found`, or returns why it cannot be.
local function add(found, problem, target, name, parameters)
    local reason = modules[name].check(problem, target, parameters)
    if reason then return reason end
    found[#found + 1] = { name = name, parameters = parameters,
                          predicted_us = modules[name].time(problem, target, parameters) }
end

-- By predicted time; equal ones by their parameters, so that the order never depends on how they were found.
local function better(a, b)
    if a.predicted_us ~= b.predicted_us then return a.predicted_us < b.predicted_us end
    if a.name ~= b.name then return a.name < b.name end
    for _, parameter in ipairs(modules[a.name].parameters) do
        local key = parameter[1]
        local x, y = a.parameters[key] or -1, b.parameters[key] or -1 -- a line for the whole schedule has none, and comes last
        if x ~= y then return x > y end
    end
    return false
end

local MOST_LISTED <const> = 20 -- candidates that are worth a line

-- The schedules that apply, as { { name, least_us }, ... }, by their least time. Notes why others do not.
local function applicable(problem, target, only, refused)
    local list = {}
    for position, name in ipairs(names) do
        if not only or only == name then
            local module = modules[name]
            local ok, reason = module.applies(problem, target)
            if ok then
                list[#list + 1] = { name = name, position = position,
                                    least_us = module.least_us and module.least_us(problem, target) or 0 }
            else
                refused[#refused + 1] = { schedule = name, why = reason }
            end
        end
    end
    table.sort(list, function(a, b)
        if a.least_us ~= b.least_us then return a.least_us < b.least_us end
        return a.position < b.position
    end)
    return list
end

-- A line for a schedule as a whole: it has candidates of that time, or above, that no line shows.
local function line_of(name, us, why)
    return { name = name, schedule = name, predicted_us = us, parameters = {}, why = why }
end

-- Adds the candidates of each schedule that may hold the best one to `found`. Those of another would be looked at in vain:
-- it gets one line.
local function search(problem, target, only, found, refused, lines)
    local best = huge
    for _, each in ipairs(applicable(problem, target, only, refused)) do
        local name = each.name
        if each.least_us > best then
            lines[#lines + 1] = line_of(name, each.least_us, "needs at least this long: its candidates were not looked at")
        else
            local candidates = modules[name].candidates(problem, target)
            if #candidates == 0 then refused[#refused + 1] = { schedule = name, why = "none of its tiles suits these sizes" } end
            for _, parameters in ipairs(candidates) do
                local reason = add(found, problem, target, name, parameters)
                if reason then
                    refused[#refused + 1] = { schedule = schedule.format(name, parameters), why = reason }
                else
                    best = min(best, found[#found].predicted_us)
                end
            end
        end
    end
end

-- The best MOST_LISTED of `found` in order, and of each schedule that has others the least time of those.
local function best_of(found)
    local best, others = {}, {}
    for _, candidate in ipairs(found) do
        local at, dropped = #best, nil
        if at < MOST_LISTED then
            at = at + 1
        elseif better(candidate, best[at]) then
            dropped = best[at]
        else
            at, dropped = 0, candidate
        end
        if at > 0 then
            while at > 1 and better(candidate, best[at - 1]) do
                best[at] = best[at - 1]
                at = at - 1
            end
            best[at] = candidate
        end
        if dropped then others[dropped.name] = min(others[dropped.name] or huge, dropped.predicted_us) end
    end
    return best, others
end

-- Returns { { name, parameters, schedule, predicted_us, why }, ... } best first, { { schedule, why }, ... }, and how many
-- candidates were considered. A line whose `schedule` is a name stands for the candidates of it that are not listed.
-- `wanted` restricts: nil, a schedule's name, or a full specification.
function schedule.candidates(problem, target, wanted)
    local found, refused, lines = {}, {}, {}
    local only, parameters
    if wanted then only, parameters = schedule.parse(wanted) end
    if parameters then
        local reason = add(found, problem, target, only, parameters)
        if reason then invalid("schedule %s: %s", wanted, reason) end
    else
        search(problem, target, only, found, refused, lines)
    end
    local best, others = best_of(found)
    for i, candidate in ipairs(best) do
        local explained = modules[candidate.name].explain(problem, candidate.parameters)
        candidate.schedule = schedule.format(candidate.name, candidate.parameters)
        candidate.why = i == 1 and explained or
            string.format("%.2f times the best; %s", candidate.predicted_us / best[1].predicted_us, explained)
        lines[#lines + 1] = candidate
    end
    if not only then
        for name, us in strict.sorted(others) do lines[#lines + 1] = line_of(name, us, "more candidates of this schedule") end
    end
    table.sort(lines, better)
    return lines, refused, #found
end

function schedule.module(name) return modules[name] end

return schedule
