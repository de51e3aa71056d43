//! What each node of an expression does.

use super::compile::{Comprehension, Node, Search, Variable};
use super::{Meter, Scope, Trouble, Value};
use crate::routes::number::{Num, Number};
use crate::routes::times::iso;
use crate::routes::value::Object;
use regex::Regex;
use std::borrow::Cow;

/// A value: borrowed from the message or the expression, or made.
type Got<'v, 'a> = Cow<'v, Value<'a>>;

/// The variables that comprehensions declare, innermost last.
pub(super) type Locals<'v, 'a> = Vec<Got<'v, 'a>>;

/// Evaluates `node`.
pub(super) fn evaluate<'v, 'a>(
    node: &'v Node,
    scope: &Scope<'v, 'a>,
    locals: &mut Locals<'v, 'a>,
    meter: &mut Meter,
) -> Result<Got<'v, 'a>, Trouble> {
    meter.charge(0)?;
    match node {
        Node::Literal(value) => Ok(Cow::Borrowed(value)),
        Node::Variable(variable) => read(*variable, scope, meter),
        Node::Local(index) => copy(&locals[*index], meter),
        Node::Taken(index) => Ok(std::mem::take(&mut locals[*index])),
        Node::Select { operand, field, path } => {
            let found = match operand.as_ref() {
                Node::Local(index) => member(&locals[*index], field, path, meter)?,
                other => {
                    let operand = evaluate(other, scope, locals, meter)?;
                    member(&operand, field, path, meter)?
                }
            };
            found.ok_or_else(|| Trouble::Missing(path.clone()))
        }
        Node::Has { operand, field } => match evaluate(operand, scope, locals, meter) {
            Ok(operand) => {
                let object = operand.as_object();
                meter.charge(object.map_or(0, Object::len))?;
                let found = object.is_some_and(|object| object.get(field).is_some());
                Ok(Cow::Owned(Value::Bool(found)))
            }
            Err(Trouble::Missing(_)) => Ok(Cow::Owned(Value::Bool(false))),
            Err(trouble) => Err(trouble),
        },
        Node::Index(operand, index) => {
            let operand = evaluate(operand, scope, locals, meter)?;
            let index = evaluate(index, scope, locals, meter)?;
            element(&operand, &index, meter)
        }
        Node::Not(operand) => {
            let truth = truth(&*evaluate(operand, scope, locals, meter)?, "!")?;
            Ok(Cow::Owned(Value::Bool(!truth)))
        }
        Node::Negate(operand) => negate(&*evaluate(operand, scope, locals, meter)?),
        Node::And(left, right) => both(false, "&&", [left, right], scope, locals, meter),
        Node::Or(left, right) => both(true, "||", [left, right], scope, locals, meter),
        Node::If(condition, then, otherwise) => {
            let truth = truth(&*evaluate(condition, scope, locals, meter)?, "?")?;
            evaluate(if truth { then } else { otherwise }, scope, locals, meter)
        }
        Node::Binary(operator, left, right) => {
            let left = evaluate(left, scope, locals, meter)?;
            let right = evaluate(right, scope, locals, meter)?;
            operator.apply(left, &right, meter)
        }
        Node::List(nodes) => {
            let mut items = Vec::with_capacity(nodes.len());
            for node in nodes {
                let item = evaluate(node, scope, locals, meter)?;
                items.push(owned(item, meter)?);
            }
            Ok(Cow::Owned(Value::Array(items)))
        }
        Node::Map(entries) => {
            let mut object = Object::default();
            for (key, value) in entries {
                let key = evaluate(key, scope, locals, meter)?;
                let Value::Text(key) = key.into_owned() else {
                    return Err(Trouble::Failed("a key of an object must be a text".to_owned()));
                };
                if object.get(&key).is_some() {
                    return Err(Trouble::Failed(format!("the key {key:?} stands twice in an object")));
                }
                let value = evaluate(value, scope, locals, meter)?;
                object.insert(key, owned(value, meter)?);
            }
            Ok(Cow::Owned(Value::Object(object)))
        }
        Node::Call(function, nodes) => {
            // Nearly every call has one argument or two; those need no list.
            let made = match nodes.as_slice() {
                [one] => (function.call)(&[&*evaluate(one, scope, locals, meter)?], meter),
                [one, two] => {
                    let one = evaluate(one, scope, locals, meter)?;
                    let two = evaluate(two, scope, locals, meter)?;
                    (function.call)(&[&*one, &*two], meter)
                }
                _ => {
                    let values = all(nodes, scope, locals, meter)?;
                    (function.call)(&values.iter().map(AsRef::as_ref).collect::<Vec<_>>(), meter)
                }
            };
            made.map(Cow::Owned).map_err(|trouble| match trouble {
                Trouble::Failed(message) => Trouble::Failed(format!("{}: {message}", function.name)),
                other => other,
            })
        }
        Node::Search { search: how, pattern, arguments } => {
            let values = all(arguments, scope, locals, meter)?;
            search(*how, pattern, &values, meter)
        }
        Node::Lookup { table, key, default } => {
            let key = evaluate(key, scope, locals, meter)?;
            let key = match key.as_ref() {
                Value::Text(text) => Cow::Borrowed(text.as_ref()),
                Value::Number(number) => number.digits(),
                Value::Bool(bool) => Cow::Borrowed(if *bool { "true" } else { "false" }),
                other => return Err(Trouble::Failed(format!("lookup: {} is no key", other.kind()))),
            };
            match (table.get(key.as_ref()), default) {
                (Some(value), _) => Ok(Cow::Borrowed(value)),
                (None, Some(default)) => evaluate(default, scope, locals, meter),
                (None, None) => Ok(Cow::Owned(Value::Null)),
            }
        }
        Node::Coalesce(nodes) => {
            for node in nodes {
                match evaluate(node, scope, locals, meter) {
                    Err(Trouble::Missing(_)) => {}
                    Ok(value) if matches!(value.as_ref(), Value::Null) => {}
                    other => return other,
                }
            }
            Ok(Cow::Owned(Value::Null))
        }
        Node::Comprehension(comprehension) => run(comprehension, scope, locals, meter),
    }
}

fn all<'v, 'a>(
    nodes: &'v [Node],
    scope: &Scope<'v, 'a>,
    locals: &mut Locals<'v, 'a>,
    meter: &mut Meter,
) -> Result<Vec<Got<'v, 'a>>, Trouble> {
    nodes.iter().map(|node| evaluate(node, scope, locals, meter)).collect()
}

/// A value to keep; what has to be copied for that is paid for.
fn owned<'a>(got: Got<'_, 'a>, meter: &mut Meter) -> Result<Value<'a>, Trouble> {
    match got {
        Cow::Owned(value) => Ok(value),
        Cow::Borrowed(value) => {
            meter.charge(value.weight())?;
            Ok(value.clone())
        }
    }
}

fn copy<'v, 'a>(got: &Got<'v, 'a>, meter: &mut Meter) -> Result<Got<'v, 'a>, Trouble> {
    match got {
        Cow::Borrowed(value) => Ok(Cow::Borrowed(value)),
        Cow::Owned(value) => {
            meter.charge(value.weight())?;
            Ok(Cow::Owned(value.clone()))
        }
    }
}

/// The part of a value that `take` finds: borrowed if the value is, else copied.
fn part<'v, 'a>(
    of: &Got<'v, 'a>,
    meter: &mut Meter,
    take: impl for<'x> FnOnce(&'x Value<'a>) -> Option<&'x Value<'a>>,
) -> Result<Option<Got<'v, 'a>>, Trouble> {
    match of {
        Cow::Borrowed(value) => Ok(take(value).map(Cow::Borrowed)),
        Cow::Owned(value) => match take(value) {
            Some(found) => {
                meter.charge(found.weight())?;
                Ok(Some(Cow::Owned(found.clone())))
            }
            None => Ok(None),
        },
    }
}

fn member<'v, 'a>(
    of: &Got<'v, 'a>,
    field: &str,
    path: &str,
    meter: &mut Meter,
) -> Result<Option<Got<'v, 'a>>, Trouble> {
    match of.as_ref() {
        Value::Object(object) => {
            meter.charge(object.len())?;
            part(of, meter, |value| value.as_object()?.get(field))
        }
        Value::Null => Ok(None),
        other => {
            Err(Trouble::Failed(format!("{path} cannot be: what is before .{field} is {}", other.kind())))
        }
    }
}

fn element<'v, 'a>(of: &Got<'v, 'a>, index: &Value<'_>, meter: &mut Meter) -> Result<Got<'v, 'a>, Trouble> {
    let found = match (of.as_ref(), index) {
        (Value::Object(object), Value::Text(key)) => {
            meter.charge(object.len())?;
            part(of, meter, |value| value.as_object()?.get(key))?
        }
        (Value::Array(_), Value::Number(number)) => {
            let at = match number.num() {
                Num::Int(int) => usize::try_from(int).ok(),
                Num::Float(_) => None,
            };
            part(of, meter, |value| match (value, at) {
                (Value::Array(items), Some(at)) => items.get(at),
                _ => None,
            })?
        }
        (of, index) => {
            return Err(Trouble::Failed(format!("{} has no element by {}", of.kind(), index.kind())));
        }
    };
    found.ok_or_else(|| Trouble::Missing(format!("the element {index}")))
}

fn truth(value: &Value<'_>, of: &str) -> Result<bool, Trouble> {
    match value {
        Value::Bool(bool) => Ok(*bool),
        other => Err(Trouble::Failed(format!("{of} needs true or false, not {}", other.kind()))),
    }
}

/// `&&` and `||`: a side that decides does so even if the other cannot be computed.
fn both<'v, 'a>(
    decides: bool,
    sign: &str,
    sides: [&'v Node; 2],
    scope: &Scope<'v, 'a>,
    locals: &mut Locals<'v, 'a>,
    meter: &mut Meter,
) -> Result<Got<'v, 'a>, Trouble> {
    let mut first = None;
    for side in sides {
        match evaluate(side, scope, locals, meter).and_then(|value| truth(&value, sign)) {
            Ok(truth) if truth == decides => return Ok(Cow::Owned(Value::Bool(decides))),
            Ok(_) => {}
            Err(limit @ Trouble::Limit(_)) => return Err(limit),
            Err(trouble) => first = first.or(Some(trouble)),
        }
    }
    first.map_or(Ok(Cow::Owned(Value::Bool(!decides))), Err)
}

fn negate<'v, 'a>(value: &Value<'_>) -> Result<Got<'v, 'a>, Trouble> {
    match value {
        Value::Number(number) => Ok(Cow::Owned(Value::Number(match number.num() {
            Num::Int(int) => Number::Int(-int),
            Num::Float(float) => Number::Float(-float),
        }))),
        other => Err(Trouble::Failed(format!("- needs a number, not {}", other.kind()))),
    }
}

fn read<'v, 'a>(
    variable: Variable,
    scope: &Scope<'v, 'a>,
    meter: &mut Meter,
) -> Result<Got<'v, 'a>, Trouble> {
    let head = scope.head;
    let text = |text: &Cow<'a, str>| Value::Text(text.clone());
    let metadata = || {
        let members = [("version", text(&head.version)), ("priority", Value::int(head.priority.into()))];
        Value::Object(members.into_iter().collect())
    };
    Ok(Cow::Owned(match variable {
        Variable::Value => {
            return scope.value.map(Cow::Borrowed).ok_or_else(|| Trouble::Missing("value".to_owned()));
        }
        Variable::Data => return Ok(Cow::Borrowed(scope.data)),
        Variable::Metadata => metadata(),
        Variable::Version => text(&head.version),
        Variable::Priority => Value::int(head.priority.into()),
        Variable::MessageType => text(&head.message_type),
        Variable::Timestamp => Value::text(iso(head.unix_nanos)),
        Variable::Source => text(&head.source),
        Variable::Topic => text(&head.topic),
        Variable::Message => {
            meter.charge(scope.data.weight())?;
            let members = [
                ("messageType", text(&head.message_type)),
                ("timestamp", Value::text(iso(head.unix_nanos))),
                ("source", text(&head.source)),
                ("topic", text(&head.topic)),
                ("data", scope.data.clone()),
                ("metadata", metadata()),
            ];
            Value::Object(members.into_iter().collect())
        }
    }))
}

fn search<'v, 'a>(
    how: Search,
    pattern: &Regex,
    values: &[Got<'v, 'a>],
    meter: &mut Meter,
) -> Result<Got<'v, 'a>, Trouble> {
    let text = |at: usize| {
        let value = values.get(at).map(AsRef::as_ref).unwrap_or(&Value::Null);
        let kind = || Trouble::Failed(format!("a regular expression needs a text, not {}", value.kind()));
        value.as_text().ok_or_else(kind)
    };
    let searched = text(0)?;
    meter.charge(searched.len())?;
    Ok(Cow::Owned(match how {
        Search::Matches => Value::Bool(pattern.is_match(searched)),
        Search::Find => {
            // The first group if the pattern has one, else all of it.
            let found = pattern.captures(searched).and_then(|found| found.get(1).or_else(|| found.get(0)));
            found.map_or(Value::Null, |found| Value::text(found.as_str().to_owned()))
        }
        Search::Replace => {
            let with = text(1)?;
            // Each byte of the text, and its end, may be replaced; a replacement may quote all of the text per `$`.
            let once = with.len() + with.matches('$').count() * searched.len();
            let count = pattern.find_iter(searched).count();
            meter.room(searched.len() + count * once)?;
            Value::text(pattern.replace_all(searched, with).into_owned())
        }
    }))
}

fn run<'v, 'a>(
    comprehension: &'v Comprehension,
    scope: &Scope<'v, 'a>,
    locals: &mut Locals<'v, 'a>,
    meter: &mut Meter,
) -> Result<Got<'v, 'a>, Trouble> {
    let range = evaluate(&comprehension.range, scope, locals, meter)?;
    let start = evaluate(&comprehension.start, scope, locals, meter)?;
    let accumulated = locals.len();
    locals.push(start);
    locals.push(Cow::Owned(Value::Null));
    let outcome = (|| {
        let turn = |element: Got<'v, 'a>, locals: &mut Locals<'v, 'a>, meter: &mut Meter| {
            if !truth(&*evaluate(&comprehension.goes_on, scope, locals, meter)?, "a loop")? {
                return Ok(false);
            }
            locals[accumulated + 1] = element;
            let next = evaluate(&comprehension.step, scope, locals, meter)?;
            locals[accumulated] = next;
            Ok::<bool, Trouble>(true)
        };
        match range {
            Cow::Borrowed(Value::Array(items)) => {
                for item in items {
                    if !turn(Cow::Borrowed(item), locals, meter)? {
                        break;
                    }
                }
            }
            Cow::Owned(Value::Array(items)) => {
                for item in items {
                    if !turn(Cow::Owned(item), locals, meter)? {
                        break;
                    }
                }
            }
            Cow::Borrowed(Value::Object(object)) => {
                for (key, _) in object.iter() {
                    if !turn(Cow::Owned(Value::Text(key.clone())), locals, meter)? {
                        break;
                    }
                }
            }
            Cow::Owned(Value::Object(object)) => {
                for (key, _) in object.into_members() {
                    if !turn(Cow::Owned(Value::Text(key)), locals, meter)? {
                        break;
                    }
                }
            }
            other => {
                return Err(Trouble::Failed(format!("{} cannot be run through", other.kind())));
            }
        }
        evaluate(&comprehension.result, scope, locals, meter)
    })();
    // Also after an error: what stands around this one, `||` or `coalesce`, may go on.
    locals.truncate(accumulated);
    outcome
}
