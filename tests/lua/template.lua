-- template.lua: the template engine: substitution, Lua lines, and errors that name the template's own line.

local template <const> = require "template"

local function run(text, env)
    local out = {}
    env = env or {}
    env.emit_ = function(...) for i = 1, select("#", ...) do out[#out + 1] = (select(i, ...)) end end
    env.ipairs = ipairs
    host.load(template.translate(text, "t.in"), "@t.in", env)()
    return table.concat(out)
end

local function fails(part, f, ...)
    local ok, message = pcall(f, ...)
    return not ok and string.find(message, part, 1, true) ~= nil
end

check("text is copied", run("int x;\n") == "int x;\n")
check("a last line without newline gets one", run("a\nb") == "a\nb\n")
check("empty lines stay", run("a\n\n\nb\n") == "a\n\n\nb\n")
check("substitution", run("int ${name} = ${1 + 2};\n", { name = "n" }) == "int n = 3;\n")
check("several on a line, at its ends", run("${1}${2} ${3}\n") == "12 3\n")
check("quotes, backslashes and percent signs are text", run('"%d\\n" \\\n') == '"%d\\n" \\\n')
check("a Lua line leaves nothing behind", run("a\n| local x = 1\nb ${x}\n") == "a\nb 1\n")
check("a Lua line may be indented", run("   |  if false then\nno\n  | end\nyes\n") == "yes\n")
check("a loop repeats text", run("| for i = 1, 3 do\n${i}\n| end\n") == "1\n2\n3\n")
check("a '|' inside a line is text", run("a | b\n") == "a | b\n")
check("a function emits where it is called", run("| local function f(v)\n<${v}>\n| end\na\n| f(1)\n| f(2)\n") == "a\n<1>\n<2>\n")
check("a line of Lua is a line of the chunk", select(2, string.gsub(template.translate("a\n| x()\n\nb\n", "t"), "\n", "")) == 3)

check("an error has its line", fails("t.in:3:", run, "a\n\n${nothing.field}\n"))
check("a syntax error has its line", fails("t.in:2:", run, "a\n| if then\n"))
check("an error in a loop has its line", fails("t.in:4:", run, "a\n| for i = 1, 2 do\nb\n${i .. {}}\n| end\n"))
check("'${' needs its '}'", fails("t.in:2: '${' without '}'", template.translate, "a\nb ${x\n", "t.in"))
check("render names the file and the undefined name",
      fails("conv2d_direct.cu.in", template.render, "conv2d_direct.cu.in", {}))
check("an unknown template is an error", fails("no_such.in", template.render, "no_such.in", {}))
