//! From words to a tree, by CEL's grammar (<https://github.com/google/cel-spec>, "Syntax").
//!
//! Invariant: no input makes the parser or the tree deeper than [`DEPTH_MAX`] or larger than
//! [`NODES_MAX`]. Deliberately absent: types and names (see `check`), and of the grammar message and map
//! literals.

use super::lex::{CelFault, Token, Word};

/// The deepest nesting of brackets, choices and signs before a value.
const DEPTH_MAX: usize = 32;

/// The most nodes of a tree; a chain of operators is as deep as it is long.
const NODES_MAX: usize = 256;

/// A node and the character it stands at: of an operator, the operator's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) at: usize,
    pub(super) node: TreeNode,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TreeNode {
    Whole(i64),
    Text(String),
    Name(String),
    List(Vec<Tree>),
    Select(Box<Tree>, String),
    Index(Box<Tree>, Box<Tree>),
    /// A function's name, what it was called on, and its arguments.
    Call(String, Option<Box<Tree>>, Vec<Tree>),
    Unary(&'static str, Box<Tree>),
    Binary(&'static str, Box<Tree>, Box<Tree>),
    Choice(Box<[Tree; 3]>),
}

/// Binary operators with how tightly they bind; all group from the left.
const OPERATORS: [(&str, u8); 14] = [
    ("||", 1),
    ("&&", 2),
    ("==", 3),
    ("!=", 3),
    ("<", 3),
    ("<=", 3),
    (">", 3),
    (">=", 3),
    ("in", 3),
    ("+", 4),
    ("-", 4),
    ("*", 5),
    ("/", 5),
    ("%", 5),
];

/// Builds the tree of a whole expression.
pub(super) fn parse(tokens: &[Token]) -> Result<Tree, CelFault> {
    let mut parser = Parser {
        tokens,
        depth: 0,
        nodes: 0,
    };
    let tree = parser.expression()?;
    match parser.peek() {
        Word::End => Ok(tree),
        word @ (Word::Name(_) | Word::Whole(_) | Word::Text(_) | Word::Sign(_)) => {
            Err(CelFault::new(
                parser.at(),
                format!("{} is not expected here", describe(word)),
            ))
        }
    }
}

fn describe(word: &Word) -> String {
    match word {
        Word::Name(name) => format!("`{name}`"),
        Word::Whole(number) => format!("`{number}`"),
        Word::Text(text) => format!("{text:?}"),
        Word::Sign(sign) => format!("`{sign}`"),
        Word::End => "the end".to_owned(),
    }
}

struct Parser<'t> {
    tokens: &'t [Token],
    depth: usize,
    nodes: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> &'t Word {
        self.tokens.first().map_or(&Word::End, |token| &token.word)
    }

    fn at(&self) -> usize {
        self.tokens.first().map_or(1, |token| token.at)
    }

    fn advance(&mut self) {
        // The last token is the end, which stays.
        if let [_, rest @ ..] = self.tokens
            && !rest.is_empty()
        {
            self.tokens = rest;
        }
    }

    fn eat(&mut self, sign: &str) -> bool {
        let is_it = matches!(self.peek(), Word::Sign(found) if *found == sign);
        if is_it {
            self.advance();
        }
        is_it
    }

    fn expect(&mut self, sign: &str) -> Result<(), CelFault> {
        if self.eat(sign) {
            return Ok(());
        }
        let problem = format!("`{sign}` is expected here, not {}", describe(self.peek()));
        Err(CelFault::new(self.at(), problem))
    }

    fn node(&mut self, at: usize, node: TreeNode) -> Result<Tree, CelFault> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > NODES_MAX {
            let problem = format!("the expression has more than {NODES_MAX} parts; shorten it");
            return Err(CelFault::new(at, problem));
        }
        Ok(Tree { at, node })
    }

    /// Runs one level deeper.
    fn deeper<T>(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<T, CelFault>,
    ) -> Result<T, CelFault> {
        self.depth = self.depth.saturating_add(1);
        if self.depth > DEPTH_MAX {
            let problem = format!("the expression is nested deeper than {DEPTH_MAX} levels");
            return Err(CelFault::new(self.at(), problem));
        }
        let result = run(self);
        self.depth = self.depth.saturating_sub(1);
        result
    }

    fn expression(&mut self) -> Result<Tree, CelFault> {
        let condition = self.binary(1)?;
        let at = self.at();
        if !self.eat("?") {
            return Ok(condition);
        }
        self.deeper(|parser| {
            let then = parser.binary(1)?;
            parser.expect(":")?;
            let otherwise = parser.expression()?;
            let parts = Box::new([condition, then, otherwise]);
            parser.node(at, TreeNode::Choice(parts))
        })
    }

    fn operator(&self, least: u8) -> Option<(&'static str, u8)> {
        let text = match self.peek() {
            Word::Sign(sign) => sign,
            Word::Name(name) => name.as_str(),
            Word::Whole(_) | Word::Text(_) | Word::End => return None,
        };
        let mut operators = OPERATORS.into_iter();
        operators.find(|(sign, binds)| *sign == text && *binds >= least)
    }

    fn binary(&mut self, least: u8) -> Result<Tree, CelFault> {
        let mut left = self.unary()?;
        while let Some((sign, binds)) = self.operator(least) {
            let at = self.at();
            self.advance();
            // At most one level for each strength: no bound of its own is needed.
            let right = self.binary(binds.saturating_add(1))?;
            let node = TreeNode::Binary(sign, Box::new(left), Box::new(right));
            left = self.node(at, node)?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Tree, CelFault> {
        let at = self.at();
        for sign in ["!", "-"] {
            if self.eat(sign) {
                let operand = self.deeper(Self::unary)?;
                return self.node(at, TreeNode::Unary(sign, Box::new(operand)));
            }
        }
        let value = self.primary()?;
        self.members(value)
    }

    fn members(&mut self, mut value: Tree) -> Result<Tree, CelFault> {
        loop {
            let at = self.at();
            if self.eat(".") {
                let name = self.name()?;
                let node = if self.eat("(") {
                    let arguments = self.list(")")?;
                    TreeNode::Call(name, Some(Box::new(value)), arguments)
                } else {
                    TreeNode::Select(Box::new(value), name)
                };
                value = self.node(at, node)?;
            } else if self.eat("[") {
                let index = self.deeper(Self::expression)?;
                self.expect("]")?;
                value = self.node(at, TreeNode::Index(Box::new(value), Box::new(index)))?;
            } else {
                return Ok(value);
            }
        }
    }

    fn name(&mut self) -> Result<String, CelFault> {
        if let Word::Name(name) = self.peek() {
            self.advance();
            return Ok(name.clone());
        }
        let problem = format!("a name is expected here, not {}", describe(self.peek()));
        Err(CelFault::new(self.at(), problem))
    }

    fn primary(&mut self) -> Result<Tree, CelFault> {
        let at = self.at();
        match self.peek() {
            Word::Whole(number) => {
                self.advance();
                self.node(at, TreeNode::Whole(*number))
            }
            Word::Text(text) => {
                self.advance();
                self.node(at, TreeNode::Text(text.clone()))
            }
            Word::Name(name) if name != "in" => {
                self.advance();
                let node = if self.eat("(") {
                    TreeNode::Call(name.clone(), None, self.list(")")?)
                } else {
                    TreeNode::Name(name.clone())
                };
                self.node(at, node)
            }
            Word::Sign("(") => {
                self.advance();
                let inner = self.deeper(Self::expression)?;
                self.expect(")")?;
                Ok(inner)
            }
            Word::Sign("[") => {
                self.advance();
                let elements = self.list("]")?;
                self.node(at, TreeNode::List(elements))
            }
            Word::Sign("{") => {
                let problem = "maps and messages are no part of this";
                Err(CelFault::new(at, problem))
            }
            word @ (Word::Name(_) | Word::Sign(_) | Word::End) => {
                let problem = format!("a value is expected here, not {}", describe(word));
                Err(CelFault::new(at, problem))
            }
        }
    }

    fn list(&mut self, end: &str) -> Result<Vec<Tree>, CelFault> {
        let mut elements = Vec::new();
        while !self.eat(end) {
            if !elements.is_empty() {
                self.expect(",")?;
            }
            elements.push(self.deeper(Self::expression)?);
        }
        Ok(elements)
    }
}
