//! From the syntax tree of the crate `cel` to nodes with every name looked up.

use super::functions::{FUNCTIONS, Function};
use super::operators::Operator;
use super::{Exceeded, Limits, Names, Value};
use cel::common::ast::operators as names;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr};
use cel::parser::PrattParser;
use regex::{Regex, RegexBuilder};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most bytes that a compiled regular expression may take.
const REGEX_BYTES_MAX: usize = 256 << 10;

/// What the configuration's names stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variable {
    Value,
    Data,
    Metadata,
    Version,
    Priority,
    Message,
    MessageType,
    Timestamp,
    Source,
    Topic,
}

/// How a regular expression is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    Matches,
    Find,
    Replace,
}

/// A node of an expression.
#[derive(Debug)]
pub(super) enum Node {
    Literal(Value<'static>),
    Variable(Variable),
    Local(usize),
    /// A local variable that is read for the last time: its value is moved.
    Taken(usize),
    Select {
        operand: Box<Node>,
        field: String,
        path: String,
    },
    Has {
        operand: Box<Node>,
        field: String,
    },
    Index(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    If(Box<Node>, Box<Node>, Box<Node>),
    Binary(Operator, Box<Node>, Box<Node>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Call(&'static Function, Vec<Node>),
    Search {
        search: Search,
        pattern: Regex,
        arguments: Vec<Node>,
    },
    Lookup {
        table: Arc<BTreeMap<String, Value<'static>>>,
        key: Box<Node>,
        default: Option<Box<Node>>,
    },
    Coalesce(Vec<Node>),
    Comprehension(Box<Comprehension>),
}

/// What `all`, `exists`, `exists_one`, `map` and `filter` come down to. The locals are, in this order: what is
/// accumulated, and the element.
#[derive(Debug)]
pub(super) struct Comprehension {
    pub(super) range: Node,
    pub(super) start: Node,
    pub(super) goes_on: Node,
    pub(super) step: Node,
    pub(super) result: Node,
}

pub(super) fn compile(text: &str, names: Names<'_>, limits: &Limits) -> Result<Node, String> {
    if text.len() > limits.expression_bytes_max {
        let what = format!("the expression has {} bytes", text.len());
        return Err(Exceeded::new("expression_bytes_max", limits.expression_bytes_max, what).to_string());
    }
    // The parser goes several levels down for each level of an expression; what its tree has is checked below.
    let depth = u16::try_from(limits.expression_depth_max).unwrap_or(u16::MAX);
    let parser = PrattParser::new()
        .max_recursion_depth(depth)
        .max_expression_node_count(limits.expression_nodes_max)
        .error_reporting_limit(1);
    let tree = parser.parse(text).map_err(|errors| match errors.errors.first() {
        Some(error) => format!("{} (column {})", error.msg, error.pos.1.max(0)),
        None => "it is no expression".to_owned(),
    })?;
    let mut compiler = Compiler { names, limits, locals: Vec::new(), nodes: 0, taken: None };
    compiler.node(&tree, 1)
}

struct Compiler<'n> {
    names: Names<'n>,
    limits: &'n Limits,
    locals: Vec<String>,
    nodes: usize,
    /// The local variable whose value may be moved where it is read.
    taken: Option<usize>,
}

impl Compiler<'_> {
    fn node(&mut self, tree: &IdedExpr, depth: usize) -> Result<Node, String> {
        self.nodes += 1;
        if self.nodes > self.limits.expression_nodes_max {
            let what = "the expression has more nodes";
            return Err(
                Exceeded::new("expression_nodes_max", self.limits.expression_nodes_max, what).to_string()
            );
        }
        if depth > self.limits.expression_depth_max {
            let what = "the expression nests deeper";
            return Err(
                Exceeded::new("expression_depth_max", self.limits.expression_depth_max, what).to_string()
            );
        }
        match &tree.expr {
            Expr::Literal(literal) => literal_value(literal).map(Node::Literal),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.select(select, depth),
            Expr::Call(call) => self.call(call, depth),
            Expr::List(list) => self.nodes(list.elements.iter(), depth).map(Node::List),
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err("an object is written {\"key\": value}".to_owned());
                    };
                    entries.push((self.node(&entry.key, depth + 1)?, self.node(&entry.value, depth + 1)?));
                }
                Ok(Node::Map(entries))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, depth),
            Expr::Struct(expression) => Err(format!("there is no type {:?} here", expression.type_name)),
            Expr::Unspecified => Err("it is no expression".to_owned()),
        }
    }

    fn nodes<'t>(
        &mut self,
        trees: impl Iterator<Item = &'t IdedExpr>,
        depth: usize,
    ) -> Result<Vec<Node>, String> {
        trees.map(|tree| self.node(tree, depth + 1)).collect()
    }

    fn boxed(&mut self, tree: &IdedExpr, depth: usize) -> Result<Box<Node>, String> {
        self.node(tree, depth + 1).map(Box::new)
    }

    fn name(&self, name: &str) -> Result<Node, String> {
        if let Some(index) = self.locals.iter().rposition(|local| local == name) {
            return Ok(if self.taken == Some(index) { Node::Taken(index) } else { Node::Local(index) });
        }
        match name {
            "value" if self.names.value => Ok(Node::Variable(Variable::Value)),
            "value" => Err("there is a value in rules only; here are data, metadata and message".to_owned()),
            "data" => Ok(Node::Variable(Variable::Data)),
            "metadata" => Ok(Node::Variable(Variable::Metadata)),
            "message" => Ok(Node::Variable(Variable::Message)),
            _ => {
                let known = if self.names.value { "value, data, metadata" } else { "data, metadata" };
                Err(format!("there is nothing called {name:?}; there are {known} and message"))
            }
        }
    }

    fn select(&mut self, select: &SelectExpr, depth: usize) -> Result<Node, String> {
        let operand = self.boxed(&select.operand, depth)?;
        let field = select.field.clone();
        if select.test {
            return Ok(match known_field(&operand, &field) {
                Some(_) => Node::Literal(Value::Bool(true)),
                None => Node::Has { operand, field },
            });
        }
        if let Some(variable) = known_field(&operand, &field) {
            return Ok(Node::Variable(variable));
        }
        let path = format!("{}.{field}", path_of(&select.operand.expr));
        Ok(Node::Select { operand, field, path })
    }

    fn call(&mut self, call: &CallExpr, depth: usize) -> Result<Node, String> {
        // A method's target is its first argument.
        let all: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        let name = call.func_name.as_str();
        if let Some(node) = self.operator(name, &all, depth)? {
            return Ok(node);
        }
        match name {
            "coalesce" => return self.nodes(all.into_iter(), depth).map(Node::Coalesce),
            "lookup" => return self.lookup(&all, depth),
            "matches" => return self.search(Search::Matches, name, &all, depth),
            "regex_find" => return self.search(Search::Find, name, &all, depth),
            "regex_replace" => return self.search(Search::Replace, name, &all, depth),
            _ => {}
        }
        let Some(function) = FUNCTIONS.iter().find(|function| function.name == name) else {
            return Err(format!("there is no function {name:?}"));
        };
        if !(function.least..=function.most).contains(&all.len()) {
            let (least, most) = (function.least, function.most);
            let takes = if least == most { least.to_string() } else { format!("{least} to {most}") };
            return Err(format!("{name} takes {takes} arguments, not {}", all.len()));
        }
        Ok(Node::Call(function, self.nodes(all.into_iter(), depth)?))
    }

    fn operator(&mut self, name: &str, all: &[&IdedExpr], depth: usize) -> Result<Option<Node>, String> {
        Ok(Some(match (name, all) {
            (names::CONDITIONAL, [condition, then, otherwise]) => Node::If(
                self.boxed(condition, depth)?,
                self.boxed(then, depth)?,
                self.boxed(otherwise, depth)?,
            ),
            (names::LOGICAL_AND, [left, right]) => {
                Node::And(self.boxed(left, depth)?, self.boxed(right, depth)?)
            }
            (names::LOGICAL_OR, [left, right]) => {
                Node::Or(self.boxed(left, depth)?, self.boxed(right, depth)?)
            }
            (names::LOGICAL_NOT, [operand]) => Node::Not(self.boxed(operand, depth)?),
            (names::NEGATE, [operand]) => Node::Negate(self.boxed(operand, depth)?),
            (names::INDEX, [operand, index]) => {
                Node::Index(self.boxed(operand, depth)?, self.boxed(index, depth)?)
            }
            // An error within `all` and `exists` ends them here, so what is accumulated is true or false.
            (names::NOT_STRICTLY_FALSE, [operand]) => self.node(operand, depth + 1)?,
            (_, [left, right]) => match Operator::named(name) {
                Some(operator) => Node::Binary(operator, self.boxed(left, depth)?, self.boxed(right, depth)?),
                None => return Ok(None),
            },
            _ => return Ok(None),
        }))
    }

    fn lookup(&mut self, all: &[&IdedExpr], depth: usize) -> Result<Node, String> {
        let (Some(Expr::Literal(LiteralValue::String(name))), 2..=3) =
            (all.first().map(|tree| &tree.expr), all.len())
        else {
            return Err(
                "lookup takes the name of a table between quotation marks, a key, and perhaps a default"
                    .into(),
            );
        };
        let Some(table) = self.names.tables.get(name.inner()) else {
            return Err(format!("there is no table {:?} under tables:", name.inner()));
        };
        let default = all.get(2).map(|tree| self.boxed(tree, depth)).transpose()?;
        Ok(Node::Lookup { table: Arc::clone(table), key: self.boxed(all[1], depth)?, default })
    }

    fn search(
        &mut self,
        search: Search,
        name: &str,
        all: &[&IdedExpr],
        depth: usize,
    ) -> Result<Node, String> {
        let takes = if search == Search::Replace { 3 } else { 2 };
        let (Some(Expr::Literal(LiteralValue::String(pattern))), true) =
            (all.get(1).map(|tree| &tree.expr), all.len() == takes)
        else {
            return Err(format!(
                "{name} takes {takes} arguments, the second of which is a regular expression between quotation marks"
            ));
        };
        let pattern = RegexBuilder::new(pattern.inner())
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .nest_limit(32)
            .build()
            .map_err(|error| format!("{name}: {error}"))?;
        let others = all.iter().enumerate().filter(|(index, _)| *index != 1).map(|(_, tree)| *tree);
        Ok(Node::Search { search, pattern, arguments: self.nodes(others, depth)? })
    }

    fn comprehension(&mut self, tree: &ComprehensionExpr, depth: usize) -> Result<Node, String> {
        if tree.iter_var2.is_some() {
            return Err("only one variable runs through a list here".to_owned());
        }
        let outer = self.taken.take();
        let range = self.node(&tree.iter_range, depth + 1)?;
        let start = self.node(&tree.accu_init, depth + 1)?;
        let accumulated = self.locals.len();
        self.locals.push(tree.accu_var.clone());
        self.locals.push(tree.iter_var.clone());
        let goes_on = self.node(&tree.loop_cond, depth + 1)?;
        // On each way through the step what was accumulated is read once, and replaced afterwards: lists grow in place.
        self.taken = Some(accumulated);
        let step = self.node(&tree.loop_step, depth + 1)?;
        self.taken = None;
        let result = self.node(&tree.result, depth + 1)?;
        self.locals.truncate(accumulated);
        self.taken = outer;
        Ok(Node::Comprehension(Box::new(Comprehension { range, start, goes_on, step, result })))
    }
}

/// What `operand.field` is, where the field is one that an envelope always has.
fn known_field(operand: &Node, field: &str) -> Option<Variable> {
    match (operand, field) {
        (Node::Variable(Variable::Message), "messageType") => Some(Variable::MessageType),
        (Node::Variable(Variable::Message), "timestamp") => Some(Variable::Timestamp),
        (Node::Variable(Variable::Message), "source") => Some(Variable::Source),
        (Node::Variable(Variable::Message), "topic") => Some(Variable::Topic),
        (Node::Variable(Variable::Message), "data") => Some(Variable::Data),
        (Node::Variable(Variable::Message), "metadata") => Some(Variable::Metadata),
        (Node::Variable(Variable::Metadata), "version") => Some(Variable::Version),
        (Node::Variable(Variable::Metadata), "priority") => Some(Variable::Priority),
        _ => None,
    }
}

/// How errors call what a field is taken of.
fn path_of(tree: &Expr) -> String {
    match tree {
        Expr::Ident(name) => name.clone(),
        Expr::Select(select) if !select.test => format!("{}.{}", path_of(&select.operand.expr), select.field),
        Expr::Call(call) if call.func_name == names::INDEX => {
            let of = call.args.first().map_or_else(|| "…".to_owned(), |tree| path_of(&tree.expr));
            format!("{of}[…]")
        }
        _ => "(…)".to_owned(),
    }
}

fn literal_value(literal: &LiteralValue) -> Result<Value<'static>, String> {
    Ok(match literal {
        LiteralValue::Boolean(bool) => Value::Bool(*bool.inner()),
        LiteralValue::Int(int) => Value::int((*int.inner()).into()),
        LiteralValue::UInt(int) => Value::int((*int.inner()).into()),
        LiteralValue::Double(float) if float.inner().is_finite() => {
            Value::Number(crate::routes::number::Number::Float(*float.inner()))
        }
        LiteralValue::Double(_) => return Err("a number is too large".to_owned()),
        LiteralValue::String(text) => Value::text(text.inner().to_owned()),
        LiteralValue::Null => Value::Null,
        LiteralValue::Bytes(_) => return Err("there are no bytes in JSON".to_owned()),
    })
}
