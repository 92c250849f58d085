# Prints a Makefile's targets, in groups (`##@ group`), with what their rules say (`## what | how long | variables`), and its
# variables, with the `## line` above each.
function line(name, time, what) { return sprintf("  %-14s%-9s%s", name, time, what) }
BEGIN {
    print "make TARGET [VARIABLE=value ...]"
    print "Times: on 2 processors, but for what the first run installs and builds (2 min)."
}
/^##@ / { print "\n" substr($0, 5); next }
/^## / { about = substr($0, 4); next }
/^[a-z-]+:.* ## / {
    target = $0; sub(/:.*/, "", target)
    text = $0; sub(/.* ## /, "", text)
    split(text, part, / *\| */)
    print line(target, part[2], part[1] (part[3] ? ": " part[3] : ""))
}
/^(# )?[A-Z_]+ \?=/ {
    name = value = $0
    sub(/^# /, "", name); sub(/ .*/, "", name)
    sub(/.*\?= */, "", value)
    variables = variables "\n" line(name, value, about)
}
END { print "\nVariables, and their values if you give none" variables }
